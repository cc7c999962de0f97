"""A search through the real command line: leaderboard, best configuration, resumption after a killed driver, and what
it says under ``--quiet``."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from configs.loader import load
from pipeline.config import RunConfig
from tests.integration.conftest import Cli
from tests.searches import finished_trials, killed_when, leaderboard
from tests.tools import cli_here, strays

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RATES = (0.001, 0.003)
DIVERGES = 1e30


@pytest.fixture
def search_config(tiny_config: Path) -> Path:
    path = tiny_config.parent / "search.yaml"
    path.write_text(f"""
name: search
run: {tiny_config.name}
search: {{kind: grid}}
asha: null
space:
  train.optimizer.lr: {{kind: choice, values: {[*RATES, DIVERGES]}}}
""")
    return path


def killed_after_a_trial(storage: Path, *args: str) -> dict[str, int]:
    """Begin the search and kill it once a trial has finished; what was finished."""
    killed_when(lambda: bool(finished_trials(storage)), *args)
    return finished_trials(storage)


def check_quiet(search: subprocess.CompletedProcess[str], storage: Path) -> None:
    """Results alone on stdout; on stderr a line for the trial that failed, which summary and leaderboard have too."""
    assert re.fullmatch(r"tune: trial \d of 3 failed \(train\.optimizer\.lr=1e\+30\): step \d+ \(epoch 1\): .*"
                        r"became NaN or Inf; .*\n", search.stderr), search.stderr
    *table, summary, unequal, page = search.stdout.splitlines()
    assert unequal.startswith("Searched for distilled alone, and set for plain too: train.optimizer.lr. Before ")
    assert table[0].split() == ["ndcg@10", "status", "epochs", "seconds", "train.optimizer.lr"]
    assert [line.split()[1] for line in table[2:]] == ["finished", "finished", "failed"]
    folder = storage / "tune" / "search"
    assert summary == f"3 trials, 1 failed; the best: {folder}/best.yaml"
    assert page == f"page: {folder}/search.html"
    last = leaderboard(storage, "search")[-1]
    assert (last["status"], float(last["train.optimizer.lr"]), last["metric"]) == ("failed", DIVERGES, "")
    assert "became NaN or Inf" in last["reason"]


def test_killed_search_resumes_and_runs_no_finished_trial_again(search_config: Path, tmp_path: Path, cli: Cli) -> None:
    """Although its storage has been moved in between."""
    storage, moved = tmp_path / "storage", tmp_path / "moved"
    slower = "overrides=[train.epochs=60, train.gradient_clip=null]"
    before = killed_after_a_trial(storage, str(search_config), slower)
    assert 0 < len(before) < len(RATES)

    storage, elsewhere = storage.rename(moved), f"storage.uri={moved}"
    again = cli("tune", "--quiet", "--config", str(search_config), slower, elsewhere, timeout_s=600)
    assert again.returncode == 0, again.stderr
    check_quiet(again, storage)
    after = finished_trials(storage)
    assert before.items() <= after.items()
    rows = leaderboard(storage, "search")
    assert sorted(float(r["train.optimizer.lr"]) for r in rows) == [*RATES, DIVERGES]
    assert {r["fingerprint"] for r in rows[:-1]} == set(after)
    scores = [float(r["metric"]) for r in rows[:-1]]
    assert scores == sorted(scores, reverse=True)

    best = load(RunConfig, storage / "tune" / "search" / "best.yaml")
    assert best.train.optimizer.lr == float(rows[0]["train.optimizer.lr"])
    assert best.name == "search-best"

    other = cli_here("tune", "--config", str(search_config), "seed=5", slower, elsewhere)
    assert other.returncode == 2
    assert "begun with other settings" in other.stderr
    assert "search.seed: 0 → 5" in other.stderr

    inputs = storage / "tune" / "search" / "inputs.json"
    assert set(json.loads(inputs.read_text())["inputs"]) == {"prepare", "reduce"}
    inputs.write_text(inputs.read_text().replace('"train": [', '"train": [1, '))
    stale = cli("tune", "--config", str(search_config), slower, elsewhere, timeout_s=600)
    assert stale.returncode == 2 and "were trained on other data, texts or models than are there now" in stale.stderr


def test_a_search_of_which_every_trial_fails_says_so_and_ends_with_2(search_config: Path, tmp_path: Path, cli: Cli
                                                                     ) -> None:
    space = "space={train.optimizer.lr: {kind: choice, values: [1.0e+30, 2.0e+30]}}"
    failed = cli("tune", "--config", str(search_config), space, "overrides=[train.gradient_clip=null]", timeout_s=400)
    assert failed.returncode == 2
    assert re.search(r"error: no trial of search ended with a metric \(step \d+ .*leaderboard\.csv", failed.stderr)
    assert [row["status"] for row in leaderboard(tmp_path / "storage", "search")] == ["failed", "failed"]
    assert not (tmp_path / "storage" / "tune" / "search" / "best.yaml").exists()


def test_a_killed_search_by_optuna_goes_on_where_it_was(tiny_config: Path, tmp_path: Path, cli: Cli) -> None:
    """With conditional settings and with trials that are stopped early; nothing that is not ours on stderr."""
    storage, path = tmp_path / "storage", tiny_config.parent / "drawn.yaml"
    path.write_text(f"""
name: drawn
run: {tiny_config.name}
overrides: [train.epochs=30, train.distill_epochs=1]
search: {{kind: optuna, trials: 5}}
asha: {{grace_epochs: 3, reduction_factor: 3}}
space:
  train.optimizer.lr: {{kind: uniform, low: 0.0001, high: 0.01, log: true}}
  train.beta: {{kind: choice, values: [false, true]}}
  train.beta_cap: {{kind: uniform, low: 1.0, high: 10.0, when: {{train.beta: [true]}}}}
""")
    before = killed_after_a_trial(storage, str(path))
    again = cli("tune", "--config", str(path), timeout_s=600)
    assert again.returncode == 0, again.stderr
    assert [line for line in strays(again.stderr) if not line.startswith("tune: ")] == []
    assert before.items() <= finished_trials(storage).items()
    rows = leaderboard(storage, "drawn")
    assert len(rows) == 5 == len({row["train.optimizer.lr"] for row in rows})
    epochs = [int(row["epochs"]) for row in rows]
    assert min(epochs) < 30 == max(epochs), "some are stopped early, and the best are not"
    assert all((row["train.beta_cap"] != "") == (row["train.beta"] == "True") for row in rows)
