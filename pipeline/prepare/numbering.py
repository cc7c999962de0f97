"""Dense indices in the order of first appearance, which raw ids cannot change.

Legend: N rows of a piece, M numbers that turn up in any.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl


class Numbering:
    """When and how often each of some numbers turns up in rows that come piece by piece."""

    def __init__(self, size: int) -> None:
        self._first = np.full(size, -1, np.int64)
        self._counts = np.zeros(size, np.int64)
        self._rows = 0

    def add(self, numbers_N: np.ndarray) -> None:
        """The rows after those before."""
        unseen = np.flatnonzero(self._first[numbers_N] < 0)
        # Of repeated places the last write stays: the first appearance.
        self._first[numbers_N[unseen[::-1]]] = unseen[::-1] + self._rows
        np.add.at(self._counts, numbers_N, 1)
        self._rows += len(numbers_N)

    def order(self, ids: pl.Series, earlier: pl.Series | None = None) -> Order:
        """The numbers anew: 0, 1, 2 … in order of first appearance, after those of ``earlier``, which keep its order.

        Args:
            ids: raw ids by the numbers that were counted.
            earlier: raw ids that come first.
        """
        present = np.flatnonzero(self._first >= 0)
        present = present[np.argsort(self._first[present])]
        names = ids[present]
        if earlier is not None:
            known = pl.DataFrame({"id": earlier, "place": pl.int_range(len(earlier), dtype=pl.Int64, eager=True)})
            place = pl.DataFrame({"id": names}).join(known, on="id", how="left", maintain_order="left")["place"]
            order = np.lexsort((np.arange(len(names)), place.fill_null(len(earlier)).to_numpy()))
            present, names = present[order], names[order]
        new = np.full(len(self._first), -1, np.int32)
        new[present] = np.arange(len(present), dtype=np.int32)
        return Order(new, self._counts[present], names)


@dataclass(frozen=True)
class Order:
    """M numbers that turned up, numbered anew."""

    new: np.ndarray
    """int32, old number → new; -1: never seen."""
    counts_M: np.ndarray
    """int64, rows of each new number."""
    ids: pl.Series
    """String [M]."""
