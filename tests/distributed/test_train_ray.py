"""Training on real Ray Train workers: the same losses as in one process, restarts, errors that arrive as themselves."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import ResourceError, StorageError, TrainingError
from models.config import DistillationConfig, RMSEDistillation, SASRecConfig
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact
from pipeline.train.config import OptimizerConfig, TrainConfig
from pipeline.train.execution_config import TrainExecution
from pipeline.train.keys import key
from tests.builders import make_prepared, make_targets, read_metrics, train_arm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
"""Starting a worker group takes seconds on a quiet machine and minutes on a busy one."""
ENDED_S = 600.0
"""All workers have ended so soon after one raised: seconds on a quiet machine, and long before gloo gives up."""
SASREC = SASRecConfig(hidden_dim=16, max_length=8, dropout=0.0)
CONFIG = TrainConfig(epochs=5, distill_epochs=2, batch_size=9, beta=True, gradient_clip=1.0,
                     distillation=DistillationConfig(loss=RMSEDistillation()))
HERE = TrainExecution(num_workers=0, threads_per_worker=1, log_every_steps=1)
TWO = TrainExecution(num_workers=2, cpus_per_worker=0.5, threads_per_worker=1, max_failures=1, log_every_steps=1)


def trained_in(root: Path, execution: TrainExecution, **fields: Any) -> Artifact:
    storage = Storage.from_config(StorageConfig(uri=str(root)))
    prepared = make_prepared(storage)
    config = CONFIG.model_copy(update={"execution": execution, **fields})
    return train_arm(storage, prepared, make_targets(storage, prepared, coverage=0.5), config, SASREC)


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return trained_in(tmp_path_factory.mktemp("undisturbed"), TWO)


def test_two_workers_train_what_one_process_trains(undisturbed: Artifact, tmp_path: Path) -> None:
    alone = trained_in(tmp_path, HERE)
    one, two = (read_metrics(a.local("metrics.jsonl")) for a in (alone, undisturbed))
    assert [r["kind"] for r in one] == [r["kind"] for r in two]
    for name in ("ranking", "distillation", "beta", "gradient_norm", "num_profiled"):
        assert [r.get(name, 0.0) for r in two] == pytest.approx([r.get(name, 0.0) for r in one], rel=1e-4), name
    assert undisturbed.manifest.info["world_sizes"] == [2]
    assert undisturbed.fingerprint == alone.fingerprint
    left = {name.split("/")[0] for name in undisturbed.manifest.files}
    assert left == {"metrics.jsonl", "model", "tensorboard"} == set(undisturbed.storage.names(undisturbed.folder))


def test_a_killed_worker_changes_nothing(undisturbed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                         ) -> None:
    from pipeline.train import ray_session
    from tests.injected import KILL_STEP, MARKER, OWN, RESUMED, kill_second_rank_once

    interrupt: Callable[..., Any] | int | None = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(ray_session, "worker_loop", kill_second_rank_once)
    killed = trained_in(tmp_path, TWO.model_copy(update={"runtime_env": {"env_vars": {OWN: "yes"}}}))
    assert (tmp_path / MARKER).read_text() == "yes"
    assert 0 < int((tmp_path / RESUMED).read_text()) < KILL_STEP  # from a checkpoint, not from the start
    weights = [a.local("model/model.safetensors").read_bytes() for a in (killed, undisturbed)]
    assert weights[0] == weights[1]
    logs = [a.local("metrics.jsonl").read_bytes() for a in (killed, undisturbed)]
    assert logs[0] == logs[1]
    assert killed.manifest.info["history"] == undisturbed.manifest.info["history"]
    assert signal.getsignal(signal.SIGINT) == interrupt


def check_no_worker_is_left() -> None:
    """Ray tells of an actor's end a moment after it."""
    from pipeline.train.room import _workers_alive

    deadline = time.monotonic() + 60
    while (left := _workers_alive()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == 0


def test_what_one_rank_raises_ends_the_other_within_seconds(ray_cluster: None, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """The other waits in a reduction, which gloo would give up after half an hour."""
    from pipeline.train import ray_session
    from tests.injected import RAISED, raise_in_second_rank

    monkeypatch.setattr(ray_session, "worker_loop", raise_in_second_rank)
    with pytest.raises(TrainingError, match=r"\{1: 'ValueError: a row that no rank can use'\}") as raised:
        trained_in(tmp_path, TWO.model_copy(update={"max_failures": 0}))
    assert time.time() - float((tmp_path / RAISED).read_text()) < ENDED_S
    check_no_worker_is_left()
    assert "\n" not in str(raised.value)


def test_a_loss_that_is_not_finite_ends_all_workers_at_once(ray_cluster: None, tmp_path: Path) -> None:
    wild: dict[str, Any] = {"optimizer": OptimizerConfig(lr=1e30), "gradient_clip": None}
    with pytest.raises(TrainingError, match=r"step \d+ \(epoch 1\): .* became NaN or Inf"):
        trained_in(tmp_path, TWO, **wild)
    check_no_worker_is_left()
    storage = Storage.from_config(StorageConfig(uri=str(tmp_path)))
    attempts = next(f for f in storage.files("artifacts/train") if f.endswith("non_finite_batch.json"))
    named = json.loads(storage.read_bytes(attempts))["user_id"]
    assert named and all(user.startswith("user-") for user in named)
    config = CONFIG.model_copy(update=wild)
    prepared = make_prepared(storage)
    targets = make_targets(storage, prepared, coverage=0.5)
    wild_key = key(config, SASREC, "distilled", 0, prepared.fingerprint, targets.fingerprint)
    assert artifacts.find(storage, wild_key) is None


def test_what_a_worker_raises_arrives_as_itself() -> None:
    import ray.train

    from pipeline.train.ray_session import _explain

    def failed(cause: Exception) -> Exception:
        return _explain(ray.train.WorkerGroupError("…", {1: cause}), TWO, "/there")

    ours = StorageError("disk full")
    assert failed(ours) is ours
    other = failed(ValueError("a long story\nthe last line"))
    assert isinstance(other, TrainingError)
    assert "{1: 'AssertionError'}" in str(failed(AssertionError()))
    assert "max_failures=1 restarts did not help: {1: 'ValueError: the last line'}" in str(other)
    placed = _explain(ray.train.ControllerError(TimeoutError("no room")), TWO, "/there")
    assert isinstance(placed, ResourceError) and "2 × 0.5 CPU" in str(placed) and "no room" in str(placed)
