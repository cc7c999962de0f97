"""Training metrics as JSON lines and for TensorBoard; both are cut back to the checkpoint when a run is resumed."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

METRICS_FILE = "metrics.jsonl"
LATEST_EPOCH = "epoch.json"
"""What a worker's session reported last, for the driver."""
TENSORBOARD = "tensorboard"
"""Folder of event files."""


class MetricsLog:
    """``metrics.jsonl`` (flat records, flushed one by one) and ``tensorboard/`` below a folder.

    Records carry no clock: a run that was killed and resumed ends with the same file as an undisturbed one.
    """

    def __init__(self, folder: Path, earlier: bytes = b"") -> None:
        """Start anew, or go on after ``earlier``, the file's content at the checkpoint.

        Raises:
            OSError: the disk refuses, here or in any other method.
        """
        self._path = folder / METRICS_FILE
        partial = self._path.with_suffix(".partial")
        partial.write_bytes(earlier)
        os.replace(partial, self._path)
        events = folder / TENSORBOARD
        shutil.rmtree(events, ignore_errors=True)
        events.mkdir(parents=True)
        with ExitStack() as opened:
            self._file = opened.enter_context(self._path.open("ab"))
            name = f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
            self._events = _Events(opened.enter_context((events / name).open("wb")))
            for line in earlier.splitlines():
                self._plot(json.loads(line))
            self._opened = opened.pop_all()

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; ``kind`` (`step` or `epoch`) groups it, ``step`` places it."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        self._plot(record)

    def content(self) -> bytes:
        """All records so far, as the file holds them."""
        return self._path.read_bytes()

    def close(self) -> None:
        self._opened.close()

    def _plot(self, record: dict[str, Any]) -> None:
        self._events.write(record["step"], {f"{record['kind']}/{name}": value for name, value in record.items()
                                            if name not in ("kind", "step", "phase")})


class _Events:
    """TensorBoard's file of scalars, written by the caller's thread.

    ``SummaryWriter`` writes in a thread of its own, which prints a traceback where the disk refuses and keeps the file
    open.
    """

    def __init__(self, file: BinaryIO) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._records = Event, RecordWriter(file)
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._add(self._event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _add(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
        self._records.flush()
