"""Interactions in blocks of consecutive users, so that no more than one block need be in memory.

Legend: N interactions of a block.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from cluster.faults import storage_errors
from pipeline.prepare.raw import RAW_ROW, TimeUnit
from pipeline.prepare.times import PER_SECOND
from pipeline.store.columns import ITEM_ID, REVIEW, SIGNAL, TIMESTAMP, USER_ID
from pipeline.work.progress import track

_COLUMNS: Final = {"users": USER_ID, "items": ITEM_ID, "times": TIMESTAMP, "signals": SIGNAL, "rows": RAW_ROW,
                   "reviews": REVIEW}


@dataclass(frozen=True)
class Interactions:
    """N interactions in columns, in raw row order until ``ordering.in_time`` sorts them."""

    users: np.ndarray
    """int32 [N]."""
    items: np.ndarray
    """int32 [N], an arbitrary number per raw item until ``numbering`` has given it its own."""
    times: np.ndarray | None
    """int64 [N] in ``unit``; None: timeless."""
    signals: np.ndarray | None
    """float32 [N], NaN where there is none; None: the source has no signals."""
    rows: np.ndarray
    """Raw row numbers, ascending."""
    reviews: pl.Series | None = None
    """String [N]."""
    unit: TimeUnit = "s"

    def __len__(self) -> int:
        return len(self.users)

    def take(self, chosen: np.ndarray) -> Interactions:
        """The interactions of a boolean mask or of an index array."""
        if chosen.dtype == bool and chosen.all():
            return self
        index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Interactions(
            self.users[index], self.items[index], None if self.times is None else self.times[index],
            None if self.signals is None else self.signals[index], self.rows[index],
            None if self.reviews is None else self.reviews[index], self.unit)

    @property
    def seconds(self) -> np.ndarray | None:
        """Unix seconds, int64 [N]; fractions are cut off."""
        return self.times if self.times is None or self.unit == "s" else self.times // PER_SECOND[self.unit]

    def table(self) -> pl.DataFrame:
        """The same as columns."""
        return pl.DataFrame({column: values for name, column in _COLUMNS.items()
                             if (values := getattr(self, name)) is not None})

    @classmethod
    def of(cls, table: pl.DataFrame, unit: TimeUnit) -> Interactions:
        """From what ``table`` gave; its columns are taken out of it one by one."""
        found = {name: table.drop_in_place(column).rechunk() if column in table.columns else None
                 for name, column in _COLUMNS.items()}
        reviews = found.pop("reviews")
        return cls(**{name: None if values is None else values.to_numpy() for name, values in found.items()},  # type: ignore[arg-type]
                   reviews=reviews, unit=unit)


@dataclass
class Spill:
    """Tables of one kind, in the order in which they came: in memory while they are few, else in files."""

    folder: Path
    rows_at_once: int
    """More rows are written."""
    setting: str
    """What a person sets to have the folder elsewhere."""
    rows: int = 0
    _held: list[pl.DataFrame] = field(default_factory=list)
    _held_rows: int = 0
    _files: list[Path] = field(default_factory=list)

    def append(self, table: pl.DataFrame) -> None:
        """One more table."""
        self._held.append(table)
        self._held_rows += table.height
        self.rows += table.height
        if self._held_rows > self.rows_at_once:
            self.flush()

    def flush(self) -> None:
        """Write what is in memory."""
        if self._held_rows:
            self._files.append(self.folder / f"{len(self._files):06d}.arrow")
            _write(pl.concat(self._held), self._files[-1], self.setting)
        self._held, self._held_rows = [], 0

    def __iter__(self) -> Iterator[pl.DataFrame]:
        for file in self._files:
            yield pl.read_ipc_stream(file)
        yield from self._held

    def pop(self) -> Iterator[pl.DataFrame]:
        """The same, each gone once it is given."""
        for file in self._files:
            yield pl.read_ipc_stream(file)
            file.unlink()
        self._files = []
        self._held.reverse()
        while self._held:
            yield self._held.pop()
        self._held_rows = self.rows = 0


@dataclass(frozen=True)
class Blocks:
    """Blocks of interactions: one in memory, or several in files of a folder."""

    one: Interactions | None
    unit: TimeUnit
    files: tuple[Path, ...] = ()
    setting: str = ""
    """What a person sets to have the files elsewhere."""

    def __iter__(self) -> Iterator[Interactions]:
        if self.one is not None:
            yield self.one
        for file in self.files:
            yield Interactions.of(pl.read_ipc_stream(file), self.unit)

    @classmethod
    def written(cls, blocks: Iterable[Interactions], total: int, unit: TimeUnit, scratch: Path, setting: str,
                label: str) -> Blocks:
        """So many blocks, made one after the other, in files of a new folder below ``scratch``.

        Args:
            label: names the work in progress lines.
        """
        folder = next(path for number in itertools.count() if not (path := scratch / f"blocks-{number}").exists())
        files = []
        for number, block in enumerate(track(blocks, f"prepare: {label}", "blocks", total)):
            files.append(folder / f"{number:06d}.arrow")
            _write(block.table(), files[-1], setting)
        return cls(None, unit, tuple(files), setting)

    def map(self, change: Callable[[Interactions], Interactions], label: str) -> Blocks:
        """Every block changed; what was in files is deleted.

        Args:
            label: names the work in progress lines, where there are files.
        """
        if self.one is not None:
            return Blocks(change(self.one), self.unit)
        changed = Blocks.written(map(change, self), len(self.files), self.unit, self.files[0].parents[1], self.setting,
                                 label)
        shutil.rmtree(self.files[0].parent)
        return changed


def _write(table: pl.DataFrame, path: Path, setting: str) -> None:
    """A stream, which readers copy into memory: a file of Arrow's other form would stay mapped, and open, once read."""
    with storage_errors(str(path), setting):
        path.parent.mkdir(parents=True, exist_ok=True)
        table.write_ipc_stream(path)
