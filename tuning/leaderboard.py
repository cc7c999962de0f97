"""The trials of a search in order: as a table, as a CSV file, and a line about each as it ends."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from configs.errors import ours
from pipeline.work.progress import complain, say
from pipeline.work.text import shorten, table

FAILED, FINISHED = "failed", "finished"
_SHOWN = 10
_REASON_WIDTH = 300


def row(result: Any, space: Iterable[str]) -> dict[str, Any]:
    """What the leaderboard says of a trial, from Ray Tune's result."""
    metrics = result.metrics or {}
    return {"trial": metrics.get("trial_id", ""), "status": FAILED if result.error else FINISHED,
            "metric": metrics.get("best"), "epochs": metrics.get("epoch"),
            "seconds": round(metrics.get("time_total_s", 0.0), 1), "fingerprint": metrics.get("fingerprint"),
            **{setting: decode(result.config[setting]) for setting in space if result.config},
            "reason": reason(result.error) if result.error else ""}


def decode(value: Any) -> Any:
    """A searched value as it is in a configuration: choices travel as JSON."""
    return json.loads(value) if isinstance(value, str) else value


def reason(error: BaseException) -> str:
    """Why a trial failed, in one line."""
    known = ours(error)
    text = str(known) if known is not None else (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return shorten(" ".join(text.split()), _REASON_WIDTH)


def ordered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Best first; then those without a metric, and last those that failed, however far they came."""
    return sorted(rows, key=lambda r: (r["status"] == FAILED, r["metric"] is None, -(r["metric"] or 0.0)))


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    """The file: one line per trial."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: json.dumps(v) if isinstance(v, (dict, list)) else v for k, v in r.items()} for r in rows)
    return text.getvalue().encode()


def lines(rows: list[dict[str, Any]], metric: str, best: str) -> Iterator[str]:
    """What a person reads of a finished search.

    Args:
        metric: its name.
        best: path of the best trial's configuration.
    """
    hidden = ("trial", "fingerprint", "reason", "metric")
    names = [name for name in rows[0] if name not in hidden]
    yield table((metric, *names), [("-" if r["metric"] is None else f"{r['metric']:.4f}", *(r[name] for name in names))
                                   for r in rows[:_SHOWN]])
    if len(rows) > _SHOWN:
        yield f"… and {len(rows) - _SHOWN} more in the leaderboard"
    failed = sum(r["status"] == FAILED for r in rows)
    yield f"{len(rows)} trials, {failed} failed; the best: {best}"


class TrialLines:
    """Says a line about every trial that ends; of one that failed also under ``--quiet``."""

    def __init__(self, total: int, metric: str, space: Mapping[str, Any]) -> None:
        self._total, self._metric, self._space = total, metric, tuple(space)
        self._told: set[str] | None = None

    def look(self, trials: Iterable[Any]) -> None:
        """Tell of Ray Tune's trials that have ended since the last look; those of an earlier call are known."""
        ended = [trial for trial in trials if trial.status in ("TERMINATED", "ERROR")]
        if self._told is None:
            self._told = {trial.trial_id for trial in ended}
        for trial in ended:
            if trial.trial_id not in self._told:
                self._told.add(trial.trial_id)
                self._tell(trial, len(self._told))

    def _tell(self, trial: Any, number: int) -> None:
        chosen = ", ".join(f"{name}={decode(trial.config[name])}" for name in self._space)
        if trial.status == "ERROR":
            error = trial.get_pickled_error()
            complain(f"tune: trial {number} of {self._total} failed ({chosen}): "
                     f"{reason(error) if error else 'see its folder'}")
        else:
            value = trial.last_result.get("best")
            shown = "no metric" if value is None else f"{self._metric} {value:.4f}"
            say(f"tune: trial {number} of {self._total}: {shown} ({chosen})")


def watch(told: TrialLines) -> Any:
    """Ray Tune's callback that looks after every step; it travels with the search's state."""
    from ray.tune import Callback

    class Watch(Callback):
        def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
            told.look(trials)

        def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
            told.look(trials)

    return Watch()
