"""How far a raw file is read, on stderr: by its bytes on the disk, with the rows a second. Polars-free."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Final

from pipeline.work.progress import Progress, speed

_MB: Final = 10**6


class Reading:
    """A file while it is read. Its rows are counted as they come; how many there are is known at the end alone."""

    def __init__(self, path: Path) -> None:
        self._total = max(1, path.stat().st_size // _MB)
        self._progress = Progress(f"prepare: reading {path.name}", self._total, "MB")
        self._rows, self._started = 0, time.monotonic()

    def add(self, rows: int, place: int) -> None:
        """So many rows more; ``place``: bytes of the file, as it lies on the disk, that have been read."""
        self._rows += rows
        self._progress.update(min(self._total, place // _MB),
                              f"{self._rows:,} rows, {speed(self._rows, time.monotonic() - self._started, 'rows')}")

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self._progress.close()
