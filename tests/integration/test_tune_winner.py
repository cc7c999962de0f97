"""What becomes of a search's winner: other seeds, and the test part once (`final_seeds`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.loader import load
from pipeline.config import RunConfig
from tests.integration.conftest import Cli
from tests.searches import finished_trials, killed_when, leaderboard
from tests.tools import strays

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def trained_seeds(storage: Path) -> dict[int, list[str]]:
    """Seed → fingerprints of finished trainings."""
    found: dict[int, list[str]] = {}
    for fingerprint in finished_trials(storage):
        key = json.loads((storage / "artifacts/train" / fingerprint / "key.json").read_text())
        found.setdefault(key["config"]["seed"], []).append(fingerprint)
    return found


def test_the_winner_s_seeds_go_on_after_a_kill_and_test_is_scored_once_and_last(tiny_config: Path, tmp_path: Path,
                                                                               cli: Cli) -> None:
    storage, path = tmp_path / "storage", tiny_config.parent / "final.yaml"
    path.write_text(f"""
name: final
run: {tiny_config.name}
overrides: ["arms=[plain]", train.epochs=60, "evaluate.baselines=[]"]
search: {{kind: grid}}
asha: null
final_seeds: [1, 2]
space:
  train.optimizer.lr: {{kind: choice, values: [1.0e-5, 0.003]}}
""")
    killed_when(lambda: 1 in trained_seeds(storage), str(path))
    before, seeds = finished_trials(storage), trained_seeds(storage)
    assert {seed: len(found) for seed, found in seeds.items()} == {0: 2, 1: 1}, "two trials, and the first of the seeds"
    assert not (storage / "artifacts/evaluate").exists() and not list(storage.glob("runs/*/report.html"))

    again = cli("tune", "--config", str(path), timeout_s=600)
    assert again.returncode == 0, again.stderr
    assert [line for line in strays(again.stderr) if not line.startswith("tune: ")] == []
    after = finished_trials(storage)
    assert {seed: len(found) for seed, found in trained_seeds(storage).items()} == {0: 2, 1: 1, 2: 1}
    assert before.items() <= after.items(), "what was trained is not trained again"
    attempts = [len(list((storage / f"artifacts/train/{fingerprint}/attempts").iterdir())) for fingerprint in before]
    assert attempts == [1, 1, 1]

    best = load(RunConfig, storage / "tune/final/best.yaml")
    won = leaderboard(storage, "final")[0]
    assert best.name == "final-best" and best.train.optimizer.lr == float(won["train.optimizer.lr"])
    scored = [json.loads(key.read_text())["inputs"]["train"] for key in storage.glob("artifacts/evaluate/*/key.json")]
    of_seeds = trained_seeds(storage)
    assert sorted(scored) == sorted(of_seeds[1] + of_seeds[2]), "the winner's alone, each once"
    for fingerprint in scored:
        key = json.loads((storage / "artifacts/train" / fingerprint / "key.json").read_text())
        assert key["config"]["train"]["optimizer"]["lr"] == best.train.optimizer.lr
    assert (storage / "runs/final-best/report.html").is_file()
    assert "final-best: test, " in again.stdout and "2 seeds" in again.stdout
    page = (storage / "tune/final/search.html").read_text()
    assert "It is run with seeds 1, 2 and scored on the test part once" in page
