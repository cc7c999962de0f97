"""Raw ids in one form: what stands for one user or item is one text in every file."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from configs.errors import DataError
from pipeline.work.progress import say

_EXACT = 2**53
"""From here on floating-point numbers no longer tell whole numbers apart."""
_WHOLE: Final = r"^(-?(0|[1-9]\d*)(\.0+)?|-?\d(\.\d+)?e\+\d+)$"
"""A whole number as programs write it, also from a floating-point column: 12, 12.0, 1e+16; not 007, not 1.5."""
_FLOAT: Final = r"\.0+$|e\+"


def raw_id(name: str, dtype: pl.DataType) -> pl.Expr:
    """A column of ids as text without surrounding spaces; 12.0 is 12; NaN and infinity are null."""
    column = pl.col(name)
    if dtype == pl.String:
        return column.str.strip_chars()
    if dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        text = pl.when(whole.cast(dtype) == column).then(
            pl.when(column.abs() < _EXACT).then(whole.cast(pl.String)).otherwise(pl.format("{}.0", whole))
        ).otherwise(column.cast(pl.String))
        return pl.when(column.is_finite()).then(text)
    return column.cast(pl.String)


def whole_ids(ids: pl.Series, what: str, tell: bool = True) -> pl.Series:
    """All ids of one column; ``12.0`` is ``12`` where every id is a whole number.

    Where one of them is another text (``007``, ``1.5``, ``A1``) all stay as they are.

    Raises:
        DataError: whole numbers that came through floating-point numbers and are too large for them.
    """
    floats = ids.str.contains(_FLOAT).fill_null(False)
    if not floats.any() or not ids.str.contains(_WHOLE).fill_null(True).all():
        return ids
    written = ids.filter(floats)
    large = written.filter(written.cast(pl.Float64).abs() >= _EXACT)
    if len(large):
        raise DataError(f"{what}: the id {large[0]} comes from a column of floating-point numbers, which cannot tell "
                        "whole numbers from 2^53 on apart; save the ids as integers or as text")
    if tell:
        say(f"prepare: note: {what}: every id is a whole number, so {written[0]} is read as "
            f"{written[0].partition('.')[0]}")
    return ids.to_frame().select(without_point_zero(pl.first())).to_series()


def merged_ids(ids: pl.Series, what: str) -> tuple[pl.Series, np.ndarray | None]:
    """``whole_ids``, each once, and the place of every id among them, int32; None where nothing changes.

    Raises:
        DataError: as ``whole_ids``.
    """
    whole = whole_ids(ids, what)
    if whole is ids:
        return ids, None
    merged = whole.unique(maintain_order=True)
    place = pl.DataFrame({"id": whole}).join(
        pl.DataFrame({"id": merged, "place": pl.int_range(len(merged), dtype=pl.Int32, eager=True)}), on="id",
        how="left", maintain_order="left", nulls_equal=True)["place"]
    return merged, place.rechunk().to_numpy()


class IdLists:
    """Ids of several lists, each once, in the order in which they first come."""

    def __init__(self) -> None:
        self._kind = pl.Categorical(pl.Categories.random())
        self._held = pl.Series([], dtype=self._kind)  # categories live as long as a column that has them

    def add(self, ids: pl.Series) -> np.ndarray:
        """The next list; int32, the place of each of its ids among all."""
        return ids.cast(self._kind).to_physical().cast(pl.Int32).to_numpy()

    def all(self) -> pl.Series:
        """String."""
        return self._held.dtype.categories.to_series()  # type: ignore[attr-defined, no-any-return]


def without_point_zero(ids: pl.Expr) -> pl.Expr:
    """``12.0`` as ``12``."""
    return ids.str.replace(r"\.0+$", "")
