"""What the raw tables say of the items and users that stay, in index order.

Legend: V items, M users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.prepare.raw import FIELD, TAG, RawTables
from pipeline.prepare.tables import readable, scanned_files
from pipeline.store.columns import CATEGORY, ITEM_ID, TIMESTAMP, TITLE, USER_ID

MAX_TAGS = 20
"""Most frequent tags told per item."""
_INDEX = "index"
_ORDER = "order"
_STRINGS = pa.map_(pa.string(), pa.string())


@dataclass(frozen=True)
class Described:
    """One row per index, in index order."""

    table: pl.DataFrame
    """``index``, then the raw table's columns but for its id; null where it has no row."""
    unknown: int
    """Ids without a row."""
    repeated: int
    """Further rows of an id that had one; the first counts."""


def describe(ids: pl.Series, table: pl.LazyFrame | None, id_column: str, raw: RawTables) -> Described:
    """Look ids up in an item or user table; only their rows are ever in memory.

    Raises:
        DataError: the table's file is damaged.
    """
    wanted = pl.DataFrame({_INDEX: pl.int_range(len(ids), dtype=pl.Int64, eager=True), id_column: ids})
    if table is None:
        return Described(wanted.select(_INDEX), len(ids), 0)
    with readable(scanned_files(raw.keep)):
        rows = table.with_row_index(_ORDER).join(wanted.lazy(), on=id_column).drop(id_column).collect(
            engine="streaming")
    first = rows.sort(_INDEX, _ORDER).unique(_INDEX, keep="first", maintain_order=True)
    full = wanted.select(_INDEX).join(first, on=_INDEX, how="left", maintain_order="left").drop(_ORDER)
    return Described(full, len(ids) - first.height, rows.height - first.height)


def item_text(ids: pl.Series, raw: RawTables) -> Described:
    """TITLE, CATEGORY and the ``FIELD`` columns of items; an item without a title takes its first text."""
    found = describe(ids, raw.items, ITEM_ID, raw)
    table = found.table
    if raw.items is None:
        table = table.with_columns(pl.lit(None, pl.String).alias(name) for name in (TITLE, CATEGORY))
    fields = [name for name in table.columns if name.startswith(FIELD)]
    texts = [pl.when(pl.col(name) != "").then(pl.col(name)) for name in (TITLE, *fields)]
    return Described(table.with_columns(pl.coalesce(texts).alias(TITLE)), found.unknown, found.repeated)


def without_text(items: pl.DataFrame) -> int:
    """Items with neither a title nor any other text."""
    return items[TITLE].null_count()


def tag_texts(raw: RawTables, user_ids: pl.Series, item_ids: pl.Series, train_pairs: np.ndarray,
              boundary: int | None) -> pl.Series:
    """String [V]: each item's most frequent tags, from the training part only.

    Args:
        train_pairs: int64 keys ``user * V + item`` (items from 0) of the training interactions: a tag counts only if
            its user has that item in his training part, and never after the boundary.
    """
    assert raw.tags is not None
    users = pl.DataFrame({"user": pl.int_range(len(user_ids), dtype=pl.Int64, eager=True), USER_ID: user_ids})
    items = pl.DataFrame({"item": pl.int_range(len(item_ids), dtype=pl.Int64, eager=True), ITEM_ID: item_ids})
    tags = raw.tags if boundary is None else raw.tags.filter(pl.col(TIMESTAMP) <= boundary)
    with readable(scanned_files(raw.keep)):
        given = tags.drop_nulls(TAG).join(users.lazy(), on=USER_ID).join(items.lazy(), on=ITEM_ID).select(
            "item", pl.col(TAG).str.to_lowercase(), (pl.col("user") * len(item_ids) + pl.col("item")).alias("pair")
        ).collect(engine="streaming")
    seen = given.filter(np.isin(given["pair"].to_numpy(), train_pairs))
    ranked = seen.group_by("item", TAG).len().sort("item", "len", TAG, descending=[False, True, False])
    joined = ranked.group_by("item", maintain_order=True).agg(pl.col(TAG).head(MAX_TAGS)).with_columns(
        pl.col(TAG).list.join(", "))
    return items.join(joined, on="item", how="left", maintain_order="left")[TAG]


def text_maps(table: pl.DataFrame, prefix: str) -> pa.Array:
    """map<string, string> per row from the columns of a prefix, empty entries left out, column order kept."""
    columns = [name for name in table.columns if name.startswith(prefix)]
    texts = [table[name].cast(pl.String) for name in columns]
    there = np.zeros((table.height, len(columns)), bool)
    for number, values in enumerate(texts):
        there[:, number] = (values.fill_null("") != "").to_numpy()
    offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
    row, column = np.nonzero(there)
    names = pa.array([name.removeprefix(prefix) for name in columns], pa.string())
    flat = pa.concat_arrays([values.to_arrow().cast(pa.string()) for values in texts]) if texts else names
    return pa.MapArray.from_arrays(offsets, names.take(pa.array(column)),
                                   flat.take(pa.array(column * table.height + row))).cast(_STRINGS)
