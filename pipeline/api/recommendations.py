"""Recommended lists with what a reader must know of them.

Legend: N sequences, K list length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.api.items import Items

MODEL, POPULARITY = "model", "popularity"
"""Who has answered a sequence."""


@dataclass(frozen=True)
class Recommendations:
    """The best items of each sequence, best first."""

    items_NK: np.ndarray
    """int32, items 1…n of ``catalogue``; 0 where no item is left."""
    scores_NK: np.ndarray
    """float32; NaN where no item is left. Of a sequence that popularity answers: training interactions."""
    popular_N: np.ndarray
    """bool: the model knows no item of the sequence, so the most popular items answer it."""
    unknown_N: np.ndarray
    """int32: items of the sequence that the model does not know."""
    unknown_filter_ids: int
    """Ids of the filter that it does not know."""
    catalogue: Items

    def __len__(self) -> int:
        return len(self.items_NK)

    @property
    def ids(self) -> list[list[str]]:
        """Raw ids of each list."""
        return [[self.catalogue.ids[item - 1] for item in row if item] for row in self.items_NK.tolist()]

    @property
    def scores(self) -> list[list[float]]:
        """Aligned with ``ids``."""
        return [[score for item, score in zip(*row, strict=True) if item]
                for row in zip(self.items_NK.tolist(), self.scores_NK.tolist(), strict=True)]

    @property
    def titles(self) -> list[list[str | None]]:
        """Aligned with ``ids``."""
        return [[self.catalogue.title(item) for item in row if item] for row in self.items_NK.tolist()]

    def to_polars(self, titles: bool = True) -> pl.DataFrame:
        """A row per recommended item: sequence (its place, from 0), rank (from 1), item_id, score, title, by."""
        row_P, place_P = np.nonzero(self.items_NK)
        items = self.items_NK[row_P, place_P].tolist()
        columns = {
            "sequence": pl.Series(row_P, dtype=pl.Int64), "rank": pl.Series(place_P + 1, dtype=pl.Int64),
            "item_id": pl.Series([self.catalogue.ids[item - 1] for item in items], dtype=pl.String),
            "score": pl.Series(self.scores_NK[row_P, place_P], dtype=pl.Float32)}
        if titles:
            columns["title"] = pl.Series([self.catalogue.title(item) for item in items], dtype=pl.String)
        columns["by"] = pl.Series(np.where(self.popular_N[row_P], POPULARITY, MODEL).tolist(), dtype=pl.String)
        return pl.DataFrame(columns)

    def remarks(self) -> list[str]:
        """What was not as asked, a line each: unknown items, sequences that popularity answered, short lists."""
        return remarks(int(self.unknown_N.sum()), int((self.unknown_N > 0).sum()), int(self.popular_N.sum()), len(self),
                       int((self.items_NK[:, -1] == 0).sum()), self.items_NK.shape[1], self.unknown_filter_ids)


def remarks(unknown: int, with_unknown: int, popular: int, sequences: int, short: int, k: int, filter_ids: int
            ) -> list[str]:
    """See :meth:`Recommendations.remarks`; the counts may be of many parts.

    Args:
        unknown: items that the model does not know, in ``with_unknown`` sequences.
        popular: sequences answered by popularity, of ``sequences``.
        short: lists of fewer than ``k`` items.
        filter_ids: unknown ids of the filter.
    """
    lines = []
    if unknown:
        lines.append(f"{unknown:,} items of {with_unknown:,} sequences are unknown to the model and were left out")
    if popular:
        lines.append(f"{popular:,} of {sequences:,} sequences hold no item that the model knows; the most popular "
                     "items answer them")
    if short:
        lines.append(f"{short:,} lists hold fewer than {k} items: the filter leaves no more")
    if filter_ids:
        lines.append(f"{filter_ids:,} ids of the filter are unknown to the model")
    return lines
