"""Dense indices in the order of first appearance, which raw ids cannot change.

Legend: N rows of a piece or block, M numbers that turn up in any.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl


@dataclass(frozen=True)
class Seen:
    """Numbers that turn up in some rows."""

    numbers: np.ndarray
    """int64, ascending."""
    first: np.ndarray
    """int64, the first row of each."""
    counts: np.ndarray
    """int64, rows of each."""
    rows: int
    """All rows."""

    @classmethod
    def of(cls, numbers_N: np.ndarray) -> Seen:
        """What turns up in these rows."""
        lowest = int(numbers_N.min(initial=np.iinfo(np.int32).max))
        places_N = numbers_N - lowest if len(numbers_N) else numbers_N
        counts = np.bincount(places_N)
        first = np.zeros(len(counts), np.int64)
        first[places_N[::-1]] = np.arange(len(numbers_N) - 1, -1, -1)  # of repeated places the last write stays
        present = np.flatnonzero(counts)
        return cls(present + lowest, first[present], counts[present], len(numbers_N))


class Numbering:
    """When and how often each of some numbers turns up in rows that come piece by piece."""

    def __init__(self, size: int) -> None:
        self._first = np.full(size, np.iinfo(np.int64).max, np.int64)
        self._counts = np.zeros(size, np.int64)
        self._rows = 0

    def add(self, seen: Seen, place: np.ndarray | None = None) -> None:
        """What turns up in the rows after those before.

        Args:
            place: of each number of ``seen`` the number that stands for it here, several perhaps the same.
        """
        numbers = seen.numbers if place is None else place[seen.numbers]
        np.minimum.at(self._first, numbers, seen.first + self._rows)
        np.add.at(self._counts, numbers, seen.counts)
        self._rows += seen.rows

    def order(self, ids: pl.Series, earlier: pl.Series | None = None) -> Order:
        """The numbers anew: 0, 1, 2 … in order of first appearance, after those of ``earlier``, which keep its order.

        Args:
            ids: raw ids by the numbers that were counted.
            earlier: raw ids that come first.
        """
        present = np.flatnonzero(self._counts)
        present = present[np.argsort(self._first[present])]
        names = ids[present]
        if earlier is not None:
            order = earlier_first(names, earlier)
            present, names = present[order], names[order]
        new = np.full(len(self._first), -1, np.int32)
        new[present] = np.arange(len(present), dtype=np.int32)
        return Order(new, self._counts[present], names)


def earlier_first(ids: pl.Series, earlier: pl.Series) -> np.ndarray:
    """int64: the places of ids in a new order, those of ``earlier`` first and in its order, the others as they are."""
    known = pl.DataFrame({"id": earlier, "place": pl.int_range(len(earlier), dtype=pl.Int64, eager=True)})
    place = pl.DataFrame({"id": ids}).join(known, on="id", how="left", maintain_order="left")["place"]
    return np.argsort(place.fill_null(len(earlier)).to_numpy(), kind="stable")


@dataclass(frozen=True)
class Order:
    """M numbers that turned up, numbered anew."""

    new: np.ndarray
    """int32, old number → new; -1: never seen."""
    counts_M: np.ndarray
    """int64, rows of each new number."""
    ids: pl.Series
    """String [M]."""
