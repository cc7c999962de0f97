"""Interactions in blocks of consecutive users, so that no more than one block need be in memory.

What is done to blocks is a function of one block, so that whoever does it, this process or Ray tasks, gives the same.

Legend: N interactions of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import polars as pl

from pipeline.prepare.raw import RAW_ROW, TimeUnit
from pipeline.prepare.scratch import Scratch, Segment
from pipeline.prepare.times import PER_SECOND
from pipeline.store.columns import ITEM_ID, REVIEW, SIGNAL, TIMESTAMP, USER_ID
from pipeline.work.progress import track
from pipeline.work.tasks import Workers

T = TypeVar("T")
_COLUMNS: Final = {"users": USER_ID, "items": ITEM_ID, "times": TIMESTAMP, "signals": SIGNAL, "rows": RAW_ROW,
                   "reviews": REVIEW}


@dataclass(frozen=True)
class Place:
    """Where interactions are while they are prepared, and who works on them."""

    scratch: Scratch
    """For what does not fit into memory; all workers reach it."""
    rows_at_once: int
    """Most rows of a block (a user with more is a block of their own); each worker has about two blocks in memory."""
    workers: Workers


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


@dataclass(frozen=True)
class Blocks:
    """Blocks of interactions: one in memory, or each in a part of one or several files, in their order."""

    one: Interactions | None
    unit: TimeUnit
    place: Place
    files: tuple[tuple[Segment, ...], ...] = ()

    def __iter__(self) -> Iterator[Interactions]:
        if self.one is not None:
            yield self.one
        for segments in self.files:
            yield _loaded(self.place.scratch, segments, self.unit)

    @property
    def sizes(self) -> list[int]:
        """Rows of each block."""
        if self.one is not None:
            return [len(self.one)]
        return [sum(segment.rows for segment in segments) for segments in self.files]

    def ask(self, question: Callable[..., T], label: str, *shared: Any, each: Sequence[Any] | None = None
            ) -> Iterator[T]:
        """What a question says of each block, in their order; nothing of it changes.

        Args:
            question: as the ``change`` of :meth:`map`, as all else.
        """
        own = self._own(each)
        if self.one is not None:
            yield question(self.one, *shared, *own[0])
            return
        calls = self._calls(question, shared, own)
        yield from track(self.place.workers.run(ask_block, calls), f"prepare: {label}", "blocks", len(self.files))

    def map(self, change: Callable[..., tuple[Interactions, T]], label: str, *shared: Any,
            each: Sequence[Any] | None = None) -> tuple[Blocks, list[T]]:
        """Every block changed, and what the change says of each; what was in files is deleted.

        Args:
            change: a function that can be imported by name; given ``(block, *shared)``.
            label: names the work in progress lines, where there are files.
            each: a last argument of each block's own.
        """
        own = self._own(each)
        if self.one is not None:
            one, said = change(self.one, *shared, *own[0])
            return Blocks(one, self.unit, self.place), [said]
        calls = self._calls(change, shared, own)
        changed = list(track(self.place.workers.run(change_block, calls), f"prepare: {label}", "blocks",
                             len(self.files)))
        self.place.scratch.delete(segment for segments in self.files for segment in segments)
        return (Blocks(None, self.unit, self.place, tuple((segment,) for segment, _ in changed)),
                [said for _, said in changed])

    def _own(self, each: Sequence[Any] | None) -> Sequence[tuple[Any, ...]]:
        return [(value,) for value in each] if each is not None else [()] * (len(self.files) or 1)

    def _calls(self, work: Callable[..., Any], shared: Sequence[Any], own: Sequence[tuple[Any, ...]]
               ) -> Iterator[tuple[Any, ...]]:
        arguments = tuple(map(self.place.workers.share, shared))
        return ((self.place.scratch, segments, self.unit, work, *arguments, *more)
                for segments, more in zip(self.files, own, strict=True))


def ask_block(scratch: Scratch, segments: Sequence[Segment], unit: TimeUnit, question: Callable[..., T],
              *arguments: Any) -> T:
    """What a block in files makes of a question."""
    return question(_loaded(scratch, segments, unit), *arguments)


def change_block(scratch: Scratch, segments: Sequence[Segment], unit: TimeUnit,
                 change: Callable[..., tuple[Interactions, T]], *arguments: Any) -> tuple[Segment, T]:
    """A block in files changed, in a new file."""
    changed, said = change(_loaded(scratch, segments, unit), *arguments)
    return scratch.write([changed.table()])[0], said


def _loaded(scratch: Scratch, segments: Sequence[Segment], unit: TimeUnit) -> Interactions:
    return Interactions.of(scratch.read(segments), unit)
