"""What a search says of its trials."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.errors import ConfigError, TrainingError
from configs.loader import validate
from pipeline.work.progress import set_quiet
from tuning.config import TuneConfig
from tuning.leaderboard import TrialLines, as_csv, described, lines, ordered, reason, row


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    set_quiet(False)
    yield
    set_quiet(False)


def from_worker(error: Exception) -> Exception:
    """What Ray makes of an error that a trial raises."""
    from ray.exceptions import RayTaskError

    wrapped: Exception = RayTaskError("trial", f"Traceback …\n{error}", error).as_instanceof_cause()
    return wrapped


def result(name: str, best: float | None, error: Exception | None = None, alpha: str = "0.1") -> Any:
    metrics = {"trial_id": name, "epoch": 3, "time_total_s": 1.26, "fingerprint": "f" * 16}
    return SimpleNamespace(metrics=metrics | ({} if best is None else {"best": best}), error=error,
                           config={"train.alpha": alpha, "train.beta": 0.5})


ROWS = ordered([row(r, ("train.alpha", "train.beta")) for r in (
    result("middling", 0.2), result("failed late", 0.9, TrainingError("step 7: loss became NaN")), result("best", 0.4),
    result("never validated", None), result("bad choice", None, from_worker(ConfigError("18 is no multiple of 4"))))])


def test_a_failed_trial_is_last_however_far_it_came() -> None:
    assert [r["trial"] for r in ROWS] == ["best", "middling", "never validated", "failed late", "bad choice"]
    assert [r["status"] for r in ROWS] == ["finished"] * 3 + ["failed"] * 2
    assert [r["reason"] for r in ROWS] == ["", "", "", "step 7: loss became NaN", "18 is no multiple of 4"]


def test_the_file_has_a_line_per_trial() -> None:
    read = list(csv.DictReader(as_csv(ROWS).decode().splitlines()))
    assert [r["metric"] for r in read] == ["0.4", "0.2", "", "0.9", ""]
    assert read[0]["train.alpha"] == "0.1" and read[0]["seconds"] == "1.3"


def test_failures_are_counted_in_the_summary() -> None:
    found = list(lines(ROWS, "ndcg@10", "tune/x/best.yaml"))
    assert found[-1] == "5 trials, 2 failed; the best: tune/x/best.yaml"
    assert [line.split()[0] for line in found[0].splitlines()[2:]] == ["0.4000", "0.2000", "-", "0.9000", "-"]
    assert list(lines(ROWS * 3, "ndcg@10", "b"))[1] == "… and 5 more in the leaderboard"


def test_a_reason_is_one_line() -> None:
    assert reason(from_worker(TrainingError("first\n  second"))) == "first second"
    assert reason(from_worker(KeyError("x"))) == "'x'"
    assert reason(RuntimeError()) == "RuntimeError"


def trial(name: str, status: str, best: float | None = None, error: Path | None = None) -> Any:
    return SimpleNamespace(trial_id=name, status=status, config={"train.alpha": "0.3"}, last_result={
        "best": best} | ({"epoch": 3, "time_total_s": 65.0} if best else {}),
                           error_file=error and str(error))


@pytest.mark.parametrize(("latest", "told"), [("AssertionError\n", "AssertionError"), ("", "see its folder")])
def test_an_error_without_words_is_told_by_its_name(capsys: pytest.CaptureFixture[str], tmp_path: Path, latest: str,
                                                    told: str) -> None:
    file = tmp_path / "error.txt"
    file.write_text(f"Failure # 1 (earlier)\nValueError: old\nFailure # {latest and '2 (later)'}\n{latest}")
    each = TrialLines(1, "ndcg@10")
    each.look([trial("a", "RUNNING")])
    each.look([trial("a", "ERROR", error=file)])
    assert capsys.readouterr().err == f"tune: trial 1 of 1 failed (train.alpha=0.3): {told}\n"


def test_running_trials_are_told_each_minute(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    told = TrialLines(4, "ndcg@10", lambda: now[0])
    for now[0], *trials in ((59.0, trial("a", "RUNNING")), (60.0, trial("a", "RUNNING")),
                            (119.0, trial("a", "RUNNING", 0.2)), (121.0, trial("a", "RUNNING", 0.2),
                                                                  trial("b", "RUNNING")),
                            (150.0, trial("a", "TERMINATED", 0.2), trial("b", "RUNNING")),
                            (205.0, trial("a", "TERMINATED", 0.2), trial("b", "RUNNING")),
                            (211.0, trial("a", "TERMINATED", 0.2), trial("b", "PENDING"))):
        told.look(trials)
    assert capsys.readouterr().err.splitlines() == [
        "tune: 0 of 4 trials have ended; one before its first validated epoch",
        "tune: 0 of 4 trials have ended; one at epoch 3 with ndcg@10 0.2000 so far, one before its first validated "
        "epoch",
        "tune: trial 1 of 4: ndcg@10 0.2000 after 3 epochs in 1 min 5 s (train.alpha=0.3)"]


@pytest.mark.parametrize(("given", "said"), [
    ({"kind": "choice", "values": [0.0, {"kind": "mean"}, True]}, "one of 0 | mean | true"),
    ({"kind": "choice", "values": [[{"arm": "plain"}], [{"arm": "plain"}, {"arm": "other", "weight": 2.0}]]},
     "one of [plain] | [plain; other, 2]"),
    ({"kind": "uniform", "low": 0.0003, "high": 0.002, "log": True}, "0.0003 to 0.002, on a logarithmic scale"),
    ({"kind": "integer", "low": 1, "high": 4, "when": {"train.beta": [True, "x"]}},
     "1 to 4, where train.beta is true or x")])
def test_where_values_come_from_is_told(given: dict[str, Any], said: str) -> None:
    config = validate(TuneConfig, {"name": "s", "run": "demo.yaml", "space": {
        "train.beta": {"kind": "choice", "values": [True, "x"]}, "train.x": given}})
    assert described(config.space["train.x"]) == said


@pytest.mark.parametrize("quiet", [False, True])
def test_each_trial_is_told_once_and_failures_always(capsys: pytest.CaptureFixture[str], tmp_path: Path, quiet: bool
                                                     ) -> None:
    raised = tmp_path / "error.txt"
    raised.write_text("".join(
        f"Failure # {attempt} (occurred at 2026-01-01)\n\x1b[36mray::ImplicitFunc.train()\x1b[39m (pid=1, ip=::1)\n"
        f'  File "trial.py", line 3, in trial\n    raise it\nconfigs.errors.TrainingError: {words}\n'
        for attempt, words in enumerate(("old", "no\nmore"))))
    set_quiet(quiet)
    told = TrialLines(4, "ndcg@10")
    earlier = trial("a", "TERMINATED", 0.1)
    told.look([earlier, trial("b", "RUNNING")])
    told.look([earlier, trial("b", "TERMINATED", 0.25), trial("c", "ERROR", error=raised)])
    told.look([earlier, trial("b", "TERMINATED", 0.25), trial("c", "ERROR"), trial("d", "TERMINATED")])
    said = ["tune: trial 2 of 4: ndcg@10 0.2500 after 3 epochs in 1 min 5 s (train.alpha=0.3)",
            "tune: trial 3 of 4 failed (train.alpha=0.3): no more", "tune: trial 4 of 4: no metric (train.alpha=0.3)"]
    assert capsys.readouterr().err.splitlines() == (said[1:2] if quiet else said)
