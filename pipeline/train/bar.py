"""A bar of epochs with their losses and validation metric, fed by the session or by the metrics file of a worker."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.train.metrics_log import METRICS_FILE
from pipeline.work.progress import Progress

_POLL_SECONDS = 1.0


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
def follow(bar: EpochBar, folder: Path) -> Iterator[None]:
    """While the block runs, show the epochs that another process writes to ``metrics.jsonl`` in ``folder``."""
    done = threading.Event()

    def watch() -> None:
        seen = (0, 0)
        while True:
            last_round = done.wait(_POLL_SECONDS)
            state = (folder / METRICS_FILE).stat() if (folder / METRICS_FILE).exists() else None
            if state is not None and seen != (state.st_mtime_ns, state.st_size):
                seen = (state.st_mtime_ns, state.st_size)
                _show_last(bar, folder / METRICS_FILE)
            if last_round:
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _show_last(bar: EpochBar, path: Path) -> None:
    """The last whole epoch record of the file; a line that is being written has no end yet."""
    for line in reversed(path.read_bytes().split(b"\n")[:-1]):
        record = json.loads(line)
        if record["kind"] == "epoch":
            bar.show(record)
            return
