"""A search whose trials are trained by workers of Ray Train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.loader import load
from pipeline.config import RunConfig
from tests.integration.conftest import Cli
from tests.searches import killed_when, leaderboard
from tests.tools import cli_here, strays

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
EPOCHS = 30
ANOTHER_RAY = "http://127.0.0.1:9"
"""Whatever address the environment has, and however many Rays the machine: the search asks its own."""


@pytest.fixture
def search(tiny_config: Path) -> Path:
    """Rates of which the first is best: what comes later is stopped or fails, and its workers must make room."""
    path = tiny_config.parent / "workers.yaml"
    path.write_text(f"""
name: workers
run: {tiny_config.name}
overrides: [train.epochs={EPOCHS}, train.distill_epochs=1, train.gradient_clip=null, "arms=[plain]"]
search: {{kind: grid}}
asha: {{grace_epochs: 3, reduction_factor: 3}}
execution: {{workers_per_trial: 2}}
space:
  train.optimizer.lr: {{kind: choice, values: [0.003, 0.0000002, 1.0e+30, 0.0000001]}}
""")
    return path


@pytest.fixture(autouse=True)
def beside_another_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", ANOTHER_RAY)
    monkeypatch.setenv("RAY_ADDRESS", "local")


def test_workers_of_stopped_and_failed_trials_make_room_also_after_a_kill(search: Path, tmp_path: Path, cli: Cli
                                                                          ) -> None:
    storage = tmp_path / "storage"
    killed_when(lambda: bool(list(storage.glob("artifacts/train/*/attempts/*/epoch.json"))), str(search))
    done = cli("tune", "--config", str(search), timeout_s=800)
    assert done.returncode == 0, done.stderr
    assert [line for line in strays(done.stderr) if not line.startswith("tune: ")] == []
    rows = {float(row["train.optimizer.lr"]): row for row in leaderboard(storage, "workers")}
    assert next(iter(rows)) == 0.003, "best first"
    assert int(rows[0.003]["epochs"]) == EPOCHS > max(int(rows[rate]["epochs"]) for rate in (2e-7, 1e-7))
    assert rows[1e30]["status"] == "failed" and "became NaN or Inf" in rows[1e30]["reason"]
    (manifest,) = storage.glob("artifacts/train/*/manifest.json")
    info = json.loads(manifest.read_text())["info"]
    assert info["world_sizes"] == [2]
    assert float(rows[0.003]["metric"]) == pytest.approx(info["best_validation"])

    best = load(RunConfig, storage / "tune" / "workers" / "best.yaml")
    assert best.train.execution.num_workers == 2, "another number would be another training"
    other = cli_here("tune", "--config", str(search), "execution.workers_per_trial=0")
    assert other.returncode == 2 and "was begun with other settings" in other.stderr


@pytest.mark.parametrize(("workers", "trials", "asked"), [(3, 1, "3 of 1 trial"), (1, 3, "1 of 3 trials")])
def test_more_workers_than_there_is_room_for(search: Path, cli: Cli, workers: int, trials: int, asked: str) -> None:
    refused = cli("tune", "--config", str(search), f"execution.workers_per_trial={workers}",
                  f"execution.concurrent_trials={trials}", timeout_s=400)
    assert refused.returncode == 2
    assert (f"execution.workers_per_trial={asked} at a time: 3 workers are asked for, each with 1 CPU of one node; "
            "there is room for 2; lower one of the two (execution.concurrent_trials) or train.execution."
            "cpus_per_worker, or add nodes") in refused.stderr
    shown = cli_here("tune", "--config", str(search), "--dry-run")
    assert shown.returncode == 0, "and its folder is not begun"
    assert not (search.parent / "storage" / "tune" / "workers" / "search.json").exists()
