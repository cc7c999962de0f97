"""A bar of epochs with their losses and validation metric, and how the epochs of other processes are followed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from configs.errors import StorageError
from pipeline.store.artifacts import ArtifactDir
from pipeline.train.metrics_log import LATEST_EPOCH
from pipeline.work.progress import Progress

_POLL_S, _REMOTE_POLL_S = 1.0, 5.0


class EpochBar:
    """Shows the newest epoch it was told of."""

    def __init__(self, label: str, epochs: int, metric: str) -> None:
        self._metric = metric
        self._progress = Progress(label, epochs, "epochs")
        self._seen = False

    def show(self, record: dict[str, Any]) -> None:
        """An epoch's record, as the session reports it."""
        if not self._seen:
            self._seen = True
            self._progress.begin_at(record["epoch"] - 1)
        shown = {"loss": "ranking", "distil": "distillation", self._metric: self._metric}
        self._progress.update(record["epoch"], ", ".join(
            f"{label} {record[name]:.4f}" for label, name in shown.items() if name in record))

    def close(self) -> None:
        self._progress.close()


@contextmanager
def follow(report: Callable[[dict[str, Any]], None], out: ArtifactDir) -> Iterator[None]:
    """While the block runs, report the epochs that another process trains, in a thread of this one; of several that end
    between two looks the newest alone."""
    done = threading.Event()

    def watch() -> None:
        seen: dict[str, Any] | None = None
        while True:
            last_round = done.wait(_POLL_S if out.storage.is_local else _REMOTE_POLL_S)
            record = _newest(out)
            if record is not None and record != seen:
                seen = record
                report(record)
            if last_round:
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _newest(out: ArtifactDir) -> dict[str, Any] | None:
    """The last epoch's record; None: there is none, or the store is silent for the moment."""
    try:
        return dict(out.storage.read_json(out.relative(LATEST_EPOCH)))
    except (OSError, StorageError, ValueError):
        return None
