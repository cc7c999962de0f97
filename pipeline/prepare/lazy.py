"""Batches that a reader yields, as a lazy polars table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import polars as pl
from polars.io.plugins import register_io_source


def lazy_table(schema: Mapping[str, pl.DataType | type[pl.DataType]],
               read: Callable[[list[str]], Iterator[pl.DataFrame]]) -> pl.LazyFrame:
    """A table that is read anew at every collection.

    Args:
        schema: every column.
        read: given the columns that are wanted, yields their rows in file order.
    """

    def batches(wanted: list[str] | None, predicate: pl.Expr | None, num_rows: int | None,
                _: int | None) -> Iterator[pl.DataFrame]:
        for frame in read(wanted or list(schema)):
            if num_rows is not None:
                frame = frame.head(num_rows)
                num_rows -= frame.height
            yield frame if predicate is None else frame.filter(predicate)
            if num_rows == 0:
                return

    return register_io_source(batches, schema=pl.Schema(schema))
