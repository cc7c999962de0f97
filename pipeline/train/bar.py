"""A bar of epochs with their losses and validation metric, fed by the session or by the metrics file of a worker."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.errors import StorageError
from pipeline.store.artifacts import ArtifactDir
from pipeline.train.metrics_log import LATEST_EPOCH, METRICS_FILE
from pipeline.work.progress import Progress

_POLL_S, _REMOTE_POLL_S = 1.0, 5.0


class EpochBar:
    """Shows the newest epoch it was told of."""

    def __init__(self, label: str, epochs: int, metric: str) -> None:
        self._metric = metric
        self._progress = Progress(label, epochs, "epochs")
        self._seen = False

    def show(self, record: dict[str, Any]) -> None:
        """An epoch's record, as ``metrics.jsonl`` holds it."""
        if not self._seen:
            self._seen = True
            self._progress.begin_at(record["epoch"] - 1)
        shown = {"loss": "ranking", "distil": "distillation", self._metric: self._metric}
        self._progress.update(record["epoch"], ", ".join(
            f"{label} {record[name]:.4f}" for label, name in shown.items() if name in record))

    def close(self) -> None:
        self._progress.close()


@contextmanager
def follow(bar: EpochBar, out: ArtifactDir) -> Iterator[None]:
    """While the block runs, show the epochs that another process writes into the attempt."""
    done = threading.Event()

    def watch() -> None:
        seen: dict[str, Any] | None = None
        state: tuple[int, int] | None = None
        while True:
            last_round = done.wait(_POLL_S if out.storage.is_local else _REMOTE_POLL_S)
            before, state = state, _state(out)
            record = _newest(out) if state is None or state != before else None
            if record is not None and record != seen:
                seen = record
                bar.show(record)
            if last_round:
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _state(out: ArtifactDir) -> tuple[int, int] | None:
    """Of a local log, so that it is read only when it has grown; None: read anyway."""
    path = Path(out.path(METRICS_FILE))
    if not out.storage.is_local or not path.exists():
        return None
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def _newest(out: ArtifactDir) -> dict[str, Any] | None:
    """The last whole record of an epoch; None: there is none, or the store is silent for the moment."""
    if not out.storage.is_local:
        try:
            return dict(out.storage.read_json(out.relative(LATEST_EPOCH)))
        except (OSError, StorageError, ValueError):
            return None
    try:
        lines = Path(out.path(METRICS_FILE)).read_bytes().split(b"\n")[:-1]  # one that is being written has no end yet
    except FileNotFoundError:
        return None
    return next((record for record in map(json.loads, reversed(lines)) if record["kind"] == "epoch"), None)
