"""Ray's remote calls fail on their way, or their answers do: they are called again, and nothing changes."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.tools import ON_RAY, TINY, cli

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MOST = 3
LOST = {method: {"num_failures": MOST, "req_failure_prob": 5, "resp_failure_prob": 5} for method in (
    "CoreWorkerService.grpc_client.PushTask", "NodeManagerService.grpc_client.RequestWorkerLease")}
"""Ray's own hook: in each process at most so many calls fail, with these probabilities in percent."""


def weights(config: Path, root: Path, *args: str, env: dict[str, str] | None = None) -> bytes:
    done = cli("train", "--config", str(config), f"storage.uri={root}", "reduce.fit_rows=90", *args, env=env,
               timeout_s=500)
    assert done.returncode == 0, done.stderr[-3000:]
    model, = (root / "artifacts" / "train").glob("*/attempts/*/model/*.safetensors")
    return model.read_bytes()


def test_training_with_lost_calls_ends_with_the_weights_of_one_without(tmp_path: Path) -> None:
    config, root = tmp_path / "tiny.yaml", tmp_path / "results"
    config.write_text(TINY.replace("arms: [plain, distilled]", "arms: [distilled]"))
    again = f"train.execution.max_failures={2 * MOST}"  # Ray Train takes a call that is lost for a worker that failed
    with tempfile.TemporaryDirectory(dir="/tmp") as logs:  # Ray's sockets need a short path
        lost = weights(config, root, *ON_RAY, again, env={
            "RAY_testing_rpc_failure": json.dumps(LOST), "RAY_TMPDIR": logs, "RAY_BACKEND_LOG_LEVEL": "info"})
        said = "".join(log.read_text(errors="replace") for log in Path(logs).rglob("*.log"))
    assert "Inject RPC" in said, "a call was lost"
    profiles, = (root / "artifacts" / "profile").glob("*/attempts/*/profiles")
    assert pq.read_table(profiles)["user_idx"].to_pylist() == list(range(120))
    shutil.rmtree(root / "artifacts" / "train")
    assert lost == weights(config, root)  # without Ray, from the same vectors
