"""The trials of a search in order: as a table, as a CSV file, and a line about each as it ends."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import ours
from pipeline.work.progress import complain, duration, say
from pipeline.work.text import shorten, table
from tuning.config import Choice, Dimension
from tuning.space import chosen

FAILED, FINISHED = "failed", "finished"
REASON = "reason"
"""Column: why a trial failed."""
_SHOWN = 10
_REASON_WIDTH = 300
_BETWEEN_LINES_S = 60.0
_RAISED = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*: ", re.MULTILINE)
"""Before the words of an error, at the end of a traceback."""


def row(result: Any, space: Iterable[str], traceback: str = "") -> dict[str, Any]:
    """What the leaderboard says of a trial, from Ray Tune's result; a setting that it does not have is left out.

    Args:
        traceback: of a trial that failed, where the result does not hold the error.
    """
    metrics, values = result.metrics or {}, chosen(result.config or {})
    why = reason(result.error) if result.error else _reason_in(traceback)
    return {"trial": metrics.get("trial_id", ""), "status": FAILED if why else FINISHED,
            "metric": metrics.get("best"), "epochs": metrics.get("epoch"),
            "seconds": round(metrics.get("time_total_s", 0.0), 1), "fingerprint": metrics.get("fingerprint"),
            **{setting: values[setting] for setting in space if setting in values},
            REASON: why}


def reason(error: BaseException) -> str:
    """Why a trial failed, in one line."""
    known = ours(error)
    text = str(known) if known is not None else (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return _line(text)


def _line(text: str) -> str:
    return shorten(" ".join(text.split()), _REASON_WIDTH)


def ordered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Best first; then those without a metric, and last those that failed, however far they came."""
    return sorted(rows, key=lambda r: (r["status"] == FAILED, r["metric"] is None, -(r["metric"] or 0.0)))


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    """The file: one line per trial."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=_columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: json.dumps(v) if isinstance(v, (dict, list)) else v for k, v in r.items()} for r in rows)
    return text.getvalue().encode()


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """Every column that a row has, the reason last."""
    names = dict.fromkeys(name for row in rows for name in row if name != REASON)
    return [*names, REASON]


def lines(rows: list[dict[str, Any]], metric: str, best: str) -> Iterator[str]:
    """What a person reads of a finished search.

    Args:
        metric: its name.
        best: path of the best trial's configuration.
    """
    hidden = ("trial", "fingerprint", REASON, "metric")
    names = [name for name in _columns(rows) if name not in hidden]
    shown = [("-" if r["metric"] is None else f"{r['metric']:.4f}", *(short(r.get(name, "")) for name in names))
             for r in rows[:_SHOWN]]
    yield table((metric, *names), shown)
    if len(rows) > _SHOWN:
        yield f"… and {len(rows) - _SHOWN} more in the leaderboard"
    failed = sum(r["status"] == FAILED for r in rows)
    yield f"{len(rows)} trials, {failed} failed; the best: {best}"


def short(value: Any) -> str:
    """A setting's value as a person reads it: of a group, what its settings are, and of a list, what stands in it."""
    if isinstance(value, Mapping):
        return ", ".join(map(short, value.values()))
    if isinstance(value, list | tuple):
        return f"[{'; '.join(map(short, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def described(dimension: Dimension) -> str:
    """Where a setting's values come from, as a person reads it: ``0.0003 to 0.002, drawn on a logarithmic scale``."""
    if isinstance(dimension, Choice):
        told = "one of " + " | ".join(map(short, dimension.values))
    else:
        told = f"{short(dimension.low)} to {short(dimension.high)}{', on a logarithmic scale' * dimension.log}"
    return told + "".join(f", where {setting} is {' or '.join(map(short, values))}"
                          for setting, values in dimension.when.items())


class TrialLines:
    """Says a line about every trial that ends, of one that failed also under ``--quiet``; and while trials run, each
    minute how far they are."""

    def __init__(self, total: int, metric: str, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            clock: seconds; a search's state is taken along to other machines, so no process's own.
        """
        self._total, self._metric, self._clock = total, metric, clock
        self._told: set[str] | None = None
        self._silent_until = clock() + _BETWEEN_LINES_S

    def look(self, trials: Sequence[Any]) -> None:
        """Tell of Ray Tune's trials that have ended since the last look; those of an earlier call are known."""
        ended = [trial for trial in trials if trial.status in ("TERMINATED", "ERROR")]
        if self._told is None:
            self._told = {trial.trial_id for trial in ended}
        for trial in ended:
            if trial.trial_id not in self._told:
                self._told.add(trial.trial_id)
                self._tell(trial, len(self._told))
                self._silent_until = self._clock() + _BETWEEN_LINES_S
        running = [trial for trial in trials if trial.status == "RUNNING"]
        if running and self._clock() >= self._silent_until:
            self._silent_until = self._clock() + _BETWEEN_LINES_S
            say(f"tune: {len(self._told)} of {self._total} trials have ended; "
                + ", ".join(self._so_far(trial) for trial in running))

    def _so_far(self, trial: Any) -> str:
        last = trial.last_result or {}
        if last.get("best") is None:
            return "one before its first validated epoch"
        return f"one at epoch {last['epoch']} with {self._metric} {last['best']:.4f} so far"

    def _tell(self, trial: Any, number: int) -> None:
        values = ", ".join(f"{name}={short(value)}" for name, value in chosen(trial.config).items())
        if trial.status == "ERROR":
            complain(f"tune: trial {number} of {self._total} failed ({values}): {_reason_in_file(trial)}")
        else:
            last = trial.last_result
            value, epochs = last.get("best"), last.get("epoch")
            shown = "no metric" if value is None else f"{self._metric} {value:.4f}"
            after = "" if epochs is None else f" after {epochs} epochs in {duration(last.get('time_total_s', 0.0))}"
            say(f"tune: trial {number} of {self._total}: {shown}{after} ({values})")


def _reason_in_file(trial: Any) -> str:
    """Why a trial failed, from the traceback that Ray Tune writes on this machine at once, and to the search's folder
    some time later."""
    file = trial.error_file
    if file is None or not Path(file).is_file():
        return "see its folder"
    return _reason_in(Path(file).read_text(encoding="utf-8", errors="replace")) or "see its folder"


def _reason_in(traceback: str) -> str:
    """The last error of Ray Tune's file, in one line."""
    before, *words = _RAISED.split(traceback.rpartition("Failure # ")[2].strip())
    return _line(words[-1] if words else before.rpartition("\n")[2])


def watch(told: TrialLines) -> Any:
    """Ray Tune's callback that looks after every step; it travels with the search's state."""
    from ray.tune import Callback

    class Watch(Callback):
        def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
            told.look(trials)

        def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
            told.look(trials)

    return Watch()
