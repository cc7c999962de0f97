"""Training metrics as JSON lines and for TensorBoard; both are cut back to the checkpoint when a run is resumed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"
TENSORBOARD = "tensorboard"
"""Folder of event files."""


class MetricsLog:
    """``metrics.jsonl`` (flat records, flushed one by one) and ``tensorboard/`` below a folder.

    Records carry no clock: a run that was killed and resumed ends with the same file as an undisturbed one.
    """

    def __init__(self, folder: Path, earlier: bytes = b"") -> None:
        """Start anew, or go on after ``earlier``, the file's content at the checkpoint."""
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder / METRICS_FILE
        partial = self._path.with_suffix(".partial")
        partial.write_bytes(earlier)
        os.replace(partial, self._path)
        self._file = self._path.open("ab")
        shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
        self._events = SummaryWriter(str(folder / TENSORBOARD))
        for line in earlier.splitlines():
            self._plot(json.loads(line))

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; ``kind`` (`step` or `epoch`) groups it, ``step`` places it."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        self._plot(record)

    def content(self) -> bytes:
        """All records so far, as the file holds them."""
        return self._path.read_bytes()

    def close(self) -> None:
        self._file.close()
        self._events.close()

    def _plot(self, record: dict[str, Any]) -> None:
        for name, value in record.items():
            if name not in ("kind", "step", "phase"):
                self._events.add_scalar(f"{record['kind']}/{name}", value, record["step"])
