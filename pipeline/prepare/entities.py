"""What the raw tables say of the items and users that stay, in index order.

Legend: V items, M users.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pyarrow as pa

from configs.errors import DataError
from models.ragged import offsets_of
from pipeline.prepare.ids import whole_ids, without_point_zero
from pipeline.prepare.raw import ATTRIBUTE, FIELD, TAG, RawTables
from pipeline.prepare.shaping import clean
from pipeline.prepare.tables import readable, scanned_files
from pipeline.store.columns import CATEGORY, ITEM_ID, TIMESTAMP, TITLE, USER_ID
from pipeline.work.progress import say

MAX_TAGS = 20
"""Most frequent tags told per item."""
_MANY = 0.1
"""Above this share of unknown ids the line is a warning."""
_TELLS = 0.9
"""Share of the items that a category may have at most at the place that tells items apart."""
_WHAT = {ITEM_ID: "item", USER_ID: "user"}
_INDEX = "index"
_ORDER = "order"
_SPARE = "spare"
_STRINGS = pa.map_(pa.string(), pa.string())


@dataclass(frozen=True)
class EntityTable:
    """One row per index, in index order."""

    table: pl.DataFrame
    """``index``, then the raw table's columns but for its id; null where it has no row."""
    unknown: int
    """Ids without a row."""
    repeated: int
    """Further rows of an id that had one; the first counts."""
    missing_words: dict[str, int]
    """Raw column → cells that held one of the words for a missing value, and are null."""


def describe(ids: pl.Series, table: pl.LazyFrame | None, id_column: str, raw: RawTables) -> EntityTable:
    """Look ids up in an item or user table; only their rows are ever in memory.

    Raises:
        DataError: the table's file is damaged, or the table knows none of the ids.
    """
    what = _WHAT[id_column]
    wanted = pl.DataFrame({_INDEX: pl.int_range(len(ids), dtype=pl.Int64, eager=True), id_column: ids})
    if table is None:
        return EntityTable(wanted.select(_INDEX), len(ids), 0, {})
    with readable(scanned_files(raw.keep)):
        known = _ids_of(table, id_column, raw)
        if whole_ids(known, f"the {what} table") is not known:
            table = table.with_columns(without_point_zero(pl.col(id_column)))
        rows = table.with_row_index(_ORDER).join(wanted.lazy(), on=id_column).drop(id_column).collect(
            engine="streaming")
    first = rows.sort(_INDEX, _ORDER).unique(_INDEX, keep="first", maintain_order=True)
    full = wanted.select(_INDEX).join(first, on=_INDEX, how="left", maintain_order="left").drop(_ORDER)
    full, missing = _without_words(_one_category(full, raw.missing_words), raw.missing_words)
    unknown = len(ids) - first.height
    if unknown:
        has_row = np.zeros(len(ids), bool)
        has_row[first[_INDEX].to_numpy()] = True
        _tell_unknown(unknown, len(ids), what, str(ids[int(np.argmin(has_row))]), known)
    repeated = rows.height - first.height
    if repeated:
        example = str(ids[int(np.flatnonzero(np.bincount(rows[_INDEX].to_numpy()) > 1)[0])])
        say(f"prepare: note: the {what} table has {_rows(repeated, 'further ')} of {what}s that it had before (such as "
            f"{example!r}); the first of each counts")
    if missing:
        counts = ", ".join(f"{count:,} in {name}" for name, count in missing.items())
        say(f"prepare: note: cells of the {what} table that are a word for a missing value count as empty: {counts}; "
            "prepare.source.missing_words says which words are")
    return EntityTable(full, unknown, repeated, missing)


def _ids_of(table: pl.LazyFrame, column: str, raw: RawTables) -> pl.Series:
    """A table's ids as they are written, null where one is a word for a missing value."""
    ids = table.select(column).collect(engine="streaming")[column]
    missing = ids.is_in(list(raw.missing_words)) if raw.missing_words else None
    return ids if missing is None or not missing.any() else ids.set(missing, None)


def strangers(ids: pl.Series, table: pl.LazyFrame, raw: RawTables) -> pl.Series:
    """The items of a table that are none of ``ids``, each once, in the table's order; none where it names none of
    ``ids``, for then it is of other items.

    Raises:
        DataError: the table's file is damaged.
    """
    with readable(scanned_files(raw.keep)):
        known = _ids_of(table, ITEM_ID, raw)
    found = whole_ids(known, "the item table", tell=False).drop_nulls()
    found = found.filter(found.str.strip_chars() != "").unique(maintain_order=True)
    strange = ~found.is_in(ids.implode())
    return (found.clear() if strange.all() else found.filter(strange)).rename(ids.name)


def _tell_unknown(unknown: int, total: int, what: str, stranger: str, known: pl.Series) -> None:
    """Say how many ids a table lacks, with an example of both sides; raise where it lacks all."""
    there = known.drop_nulls()
    said = (f"{unknown:,} of the {total:,} {what}s {'is' if unknown == 1 else 'are'} not in the {what} table (such as "
            f"{stranger!r}; the table has "
            f"{_rows(len(there))}{f', the first of {there[0]!r}' if len(there) else ''})")
    if unknown == total:
        raise DataError(f"prepare.source: {said}, so it describes none; give the table of these {what}s, name its "
                        "column of the same ids, or give no such table")
    say(f"prepare: {'warning' if unknown > _MANY * total else 'note'}: {said}")


def _rows(count: int, kind: str = "") -> str:
    return f"{count:,} {kind}row{'' if count == 1 else 's'}"


def _one_category(table: pl.DataFrame, words: tuple[str, ...]) -> pl.DataFrame:
    """Of several categories of each item those at the first place that tells items apart, where no category has nine
    tenths of them: paths share their root. An item with fewer gives its last one; one that has nothing but words for a
    missing value gives the first of these, to be counted with others."""
    if not isinstance(table.schema.get(CATEGORY), pl.List):
        return table
    each = table.select(_INDEX, CATEGORY).explode(CATEGORY).with_columns(clean(pl.col(CATEGORY))).drop_nulls(CATEGORY)
    told = pl.col(CATEGORY).filter(~pl.col(CATEGORY).is_in(words))
    by_item = each.group_by(_INDEX, maintain_order=True).agg(told, pl.col(CATEGORY).first().alias(_SPARE))
    found = table.select(_INDEX).join(by_item, on=_INDEX, how="left", maintain_order="left")
    lists = found[CATEGORY]
    depths = lists.list.len().fill_null(0).cast(pl.Int64)
    for place in range(int(depths.max() or 0)):  # type: ignore[arg-type]
        there = lists.list.get(place, null_on_oob=True).drop_nulls()
        if int(there.value_counts()["count"].max()) <= _TELLS * len(there):  # type: ignore[arg-type]
            break
    else:
        place = 0
    chosen = lists.list.get((depths - 1).clip(0, place), null_on_oob=True)
    return table.with_columns(chosen.fill_null(found[_SPARE]).alias(CATEGORY))


def _without_words(table: pl.DataFrame, words: tuple[str, ...]) -> tuple[pl.DataFrame, dict[str, int]]:
    """Text cells that are one of the words become null; column → how many did."""
    names = [name for name, dtype in table.schema.items() if dtype == pl.String]
    if not names or not words:
        return table, {}
    is_word = {name: pl.col(name).is_in(words) for name in names}
    counts = table.select(expression.sum().alias(name) for name, expression in is_word.items()).row(0, named=True)
    found = {name: int(count) for name, count in counts.items() if count}
    return (table.with_columns(pl.when(~is_word[name]).then(pl.col(name)).alias(name) for name in found),
            {name.removeprefix(FIELD).removeprefix(ATTRIBUTE): count for name, count in found.items()})


def item_text(ids: pl.Series, raw: RawTables) -> EntityTable:
    """TITLE, CATEGORY and the ``FIELD`` columns of items; an item without a title takes its first text.

    Raises:
        DataError: as ``describe``.
    """
    found = describe(ids, raw.items, ITEM_ID, raw)
    table = found.table
    if raw.items is None:
        table = table.with_columns(pl.lit(None, pl.String).alias(name) for name in (TITLE, CATEGORY))
    fields = [name for name in table.columns if name.startswith(FIELD)]
    texts = [pl.when(pl.col(name) != "").then(pl.col(name)) for name in (TITLE, *fields)]
    return replace(found, table=table.with_columns(pl.coalesce(texts).alias(TITLE)))


def without_text(items: pl.DataFrame) -> int:
    """Items with neither a title nor any other text."""
    return items[TITLE].null_count()


def tag_texts(raw: RawTables, user_ids: pl.Series, item_ids: pl.Series, train_pairs: Iterable[np.ndarray],
              boundary: float | None) -> pl.Series:
    """String [V]: each item's most frequent tags, from the training part only.

    Args:
        train_pairs: block by block int64 keys ``user * V + item`` (items from 0) of the training interactions: a tag
            counts only if its user has that item in his training part, and never after the boundary.
    """
    assert raw.tags is not None
    users = pl.DataFrame({"user": pl.int_range(len(user_ids), dtype=pl.Int64, eager=True), USER_ID: user_ids})
    items = pl.DataFrame({"item": pl.int_range(len(item_ids), dtype=pl.Int64, eager=True), ITEM_ID: item_ids})
    tags = raw.tags if boundary is None else raw.tags.filter(pl.col(TIMESTAMP) <= boundary)
    with readable(scanned_files(raw.keep)):
        given = tags.drop_nulls(TAG).join(users.lazy(), on=USER_ID).join(items.lazy(), on=ITEM_ID).select(
            "item", pl.col(TAG).str.to_lowercase(), (pl.col("user") * len(item_ids) + pl.col("item")).alias("pair")
        ).collect(engine="streaming")
    trained = np.zeros(given.height, bool)
    for pairs in train_pairs:
        trained |= np.isin(given["pair"].to_numpy(), pairs)
    seen = given.filter(pl.Series(trained))
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
    offsets = offsets_of(there.sum(axis=1)).astype(np.int32)
    row, column = np.nonzero(there)
    names = pa.array([name.removeprefix(prefix) for name in columns], pa.string())
    flat = pa.concat_arrays([values.to_arrow().cast(pa.string()) for values in texts]) if texts else names
    return pa.MapArray.from_arrays(offsets, names.take(pa.array(column)),
                                   flat.take(pa.array(column * table.height + row))).cast(_STRINGS)
