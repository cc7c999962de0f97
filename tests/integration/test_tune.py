"""A search through the real command line: leaderboard, best configuration, resumption after a killed driver."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.loader import load
from pipeline.config import RunConfig
from tests.integration.conftest import ROOT
from tests.tools import cli_here

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ALPHAS = (0.1, 0.6)


@pytest.fixture
def search_config(tiny_config: Path) -> Path:
    path = tiny_config.parent / "search.yaml"
    path.write_text(f"""
name: search
run: {tiny_config.name}
search: {{kind: grid}}
asha: null
space:
  train.alpha: {{kind: choice, values: {list(ALPHAS)}}}
""")
    return path


def leaderboard(storage: Path) -> list[dict[str, str]]:
    with (storage / "tune" / "search" / "leaderboard.csv").open() as file:
        return list(csv.DictReader(file))


def finished_trials(storage: Path) -> dict[str, int]:
    """Manifest of every finished training → when it was written."""
    return {p.parent.name: p.stat().st_mtime_ns for p in storage.glob("artifacts/train/*/manifest.json")}


def test_killed_search_resumes_and_runs_no_finished_trial_again(search_config: Path, tmp_path: Path,
                                                                ray_cluster: None) -> None:
    storage = tmp_path / "storage"
    slower = "overrides=[train.epochs=60]"
    driver = subprocess.Popen([sys.executable, "-m", "pipeline", "tune", "--config", str(search_config), slower],
                              cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 400
        while not finished_trials(storage):
            assert time.monotonic() < deadline, "no trial finished"
            assert driver.poll() is None, "the search ended before it could be killed"
            time.sleep(0.05)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    before = finished_trials(storage)
    assert 0 < len(before) < len(ALPHAS)

    again = cli_here("tune", "--config", str(search_config), slower)
    assert again.returncode == 0, again.stderr
    after = finished_trials(storage)
    assert before.items() <= after.items()
    rows = leaderboard(storage)
    assert sorted(float(r["train.alpha"]) for r in rows) == sorted(ALPHAS)
    assert {r["fingerprint"] for r in rows} == set(after)
    scores = [float(r["metric"]) for r in rows]
    assert scores == sorted(scores, reverse=True)

    best = load(RunConfig, storage / "tune" / "search" / "best.yaml")
    assert best.train.alpha == float(rows[0]["train.alpha"])
    assert best.name == "search-best"

    other = cli_here("tune", "--config", str(search_config), "seed=5", slower)
    assert other.returncode == 2
    assert "begun with other settings" in other.stderr
    assert "search.seed: 0 → 5" in other.stderr
