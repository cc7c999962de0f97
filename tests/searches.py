"""A search as its files tell of it, and one that is killed half-way."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.tools import ROOT, command


def leaderboard(storage: Path, name: str) -> list[dict[str, str]]:
    with (storage / "tune" / name / "leaderboard.csv").open() as file:
        return list(csv.DictReader(file))


def finished_trials(storage: Path) -> dict[str, int]:
    """Manifest of every finished training → when it was written."""
    return {p.parent.name: p.stat().st_mtime_ns for p in storage.glob("artifacts/train/*/manifest.json")}


def number_built(storage: Path) -> dict[str, int]:
    """Stage → finished artifacts."""
    return {stage.name: len(list(stage.glob("*/manifest.json"))) for stage in (storage / "artifacts").iterdir()}


def killed_when(reached: Callable[[], bool], *args: str) -> None:
    """Begin a search and kill it, and all of its processes' group, once something is reached."""
    driver = subprocess.Popen(command("tune", "--config", *args), cwd=ROOT, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 400
        while not reached():
            assert time.monotonic() < deadline, "the search did not come so far"
            assert driver.poll() is None, "the search ended before it could be killed"
            time.sleep(0.05)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
