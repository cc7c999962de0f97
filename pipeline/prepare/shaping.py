"""Raw columns brought into our form: interactions, item text without markup, first categories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import polars as pl

from configs.errors import DataError
from pipeline.prepare.column_types import Role
from pipeline.prepare.config import Column, InteractionColumns
from pipeline.prepare.raw import ATTRIBUTE, FIELD, RAW_ROW, UNTIMED, TimeUnit
from pipeline.prepare.tables import TableReader
from pipeline.prepare.times import no_times, times
from pipeline.store.columns import CATEGORY, ITEM_ID, REVIEW, SIGNAL, TIMESTAMP, TITLE, USER_ID

_ENTITIES: Final = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#34;": '"', "&#39;": "'", "&apos;": "'",
                    "&nbsp;": " "}
_NOTHING = pl.lit(None, pl.String)
_MARKUP = r"</?[A-Za-z!][^<>]{0,500}>"
_INVISIBLE = r"[\p{Cc}\u200B\u202A-\u202E\u2066-\u2069\uFEFF]+"
_QUOTED = r"""'[^']*'|"(?:[^"\\]|\\.)*\""""


def read_interactions(reader: TableReader, paths: Sequence[Path], columns: InteractionColumns,
                      unit: str = "auto", file_order: bool = False) -> tuple[pl.LazyFrame, TimeUnit]:
    """The interactions of one or several files, in their order, and the unit of their times.

    Raises:
        DataError: a file is damaged, lacks a column, or has its times in another form than the first.
    """
    roles: tuple[tuple[Column | None, Role], ...] = (
        (columns.user, "id"), (columns.item, "id"), (columns.timestamp, "time"), (columns.signal, "number"),
        (columns.review, "text"))
    wanted: dict[str, Role] = {}
    for column, role in roles:
        if column is not None:
            wanted.setdefault(str(column), role)
    frames: list[pl.LazyFrame] = []
    units: list[TimeUnit] = []
    for path in paths:
        frame, found = _interactions(reader.scan(path, wanted), columns, unit, file_order)
        frames.append(frame)
        units.append(found)
        if found != units[0]:
            raise DataError(f"{path}: its times are not in the form of {paths[0]} (ISO dates in one, numbers in the "
                            "other); bring them to one form")
    return pl.concat(frames).with_row_index(RAW_ROW), units[0]


def _interactions(raw: pl.LazyFrame, columns: InteractionColumns, unit: str, file_order: bool
                  ) -> tuple[pl.LazyFrame, TimeUnit]:
    dtypes = raw.collect_schema()
    user, item, when, score, review = (None if column is None else str(column) for column in (
        columns.user, columns.item, columns.timestamp, columns.signal, columns.review))
    time, found = no_times() if when is None else times(raw, when, unit)
    if when is not None and file_order:
        missing = pl.col(when).is_null()
        if dtypes[when] == pl.String:
            missing |= pl.col(when).str.strip_chars() == ""
        time = pl.when(missing).then(pl.lit(UNTIMED, pl.Int64)).otherwise(time)
    signal = pl.lit(None, pl.Float32) if score is None else _number(score, dtypes[score])
    wanted = [pl.col(str(user)).cast(pl.String).alias(USER_ID), pl.col(str(item)).cast(pl.String).alias(ITEM_ID),
              time.alias(TIMESTAMP), signal.alias(SIGNAL)]
    if review is not None:
        wanted.append(clean(text(review, dtypes[review])).alias(REVIEW))
    return raw.select(wanted), found


def _number(name: str, dtype: pl.DataType) -> pl.Expr:
    """Float32; NaN where text is there that is no number."""
    if dtype != pl.String:
        return pl.col(name).cast(pl.Float32)
    value = pl.col(name).cast(pl.Float64, strict=False)
    unreadable = value.is_null() & (pl.col(name).str.strip_chars() != "")
    return pl.when(unreadable).then(float("nan")).otherwise(value).cast(pl.Float32)


def read_items(reader: TableReader, paths: Sequence[Path], item_id: str, title: str | None, category: str | None,
               fields: Sequence[str], optional: Sequence[str] = (), separator: str = "|") -> pl.LazyFrame:
    """The item columns of ``RawTables.items`` from one or several files, text cleaned.

    Args:
        fields: columns told as text, in this order; all but the ``optional`` ones must be there.
        separator: between several categories in one column.
    """
    texts_wanted = (name for name in (title, category, *fields) if name and name not in optional)
    required: dict[str, Role] = {**dict.fromkeys(texts_wanted, "text"), item_id: "id"}
    frames = []
    for path in paths:
        raw = reader.scan(path, required, optional)
        dtypes = raw.collect_schema()
        told = [title, *fields] if title else fields
        texts = {name: clean(text(name, dtypes[name])) for name in dict.fromkeys(told) if name in dtypes}
        frames.append(raw.select(
            pl.col(item_id).cast(pl.String).alias(ITEM_ID),
            texts.get(title or "", _NOTHING).alias(TITLE),
            (clean(first(category, dtypes[category], separator)) if category else _NOTHING).alias(CATEGORY),
            *(texts.get(name, _NOTHING).alias(FIELD + name) for name in fields)))
    return pl.concat(frames)


def read_users(reader: TableReader, paths: Sequence[Path], user_id: str, attributes: Sequence[str]) -> pl.LazyFrame:
    """The user columns of ``RawTables.users``."""
    frames = []
    for path in paths:
        raw = reader.scan(path, {**dict.fromkeys(attributes, "text"), user_id: "id"})
        dtypes = raw.collect_schema()
        frames.append(raw.select(pl.col(user_id).cast(pl.String).alias(USER_ID),
                                 *(clean(text(name, dtypes[name])).alias(ATTRIBUTE + name) for name in attributes)))
    return pl.concat(frames)


def text(name: str, dtype: pl.DataType) -> pl.Expr:
    """Any column as text: lists, also printed ones (``['a', 'b']``, JSON), joined by commas; 2002.0 is 2002."""
    column = pl.col(name)
    if isinstance(dtype, pl.List):
        return column.cast(pl.List(pl.String)).list.join(", ", ignore_nulls=True)
    column = column.cast(pl.String, strict=False)
    return pl.when(column.str.starts_with("[")).then(printed_list(column).list.join(", ")).otherwise(
        column.str.replace(r"^(-?\d+)\.0$", "$1"))


def printed_list(column: pl.Expr) -> pl.Expr:
    """``['A' 'B'\\n 'C']`` or ``["A", "B"]`` → the quoted texts."""
    return column.str.extract_all(_QUOTED).list.eval(
        pl.element().str.replace(r"^['\"]((?s:.)*)['\"]$", "$1").str.replace_all(r"\\\"", '"'))


def first(name: str, dtype: pl.DataType, separator: str = "|") -> pl.Expr:
    """The first of several categories in one column."""
    column = pl.col(name)
    if isinstance(dtype, pl.List):
        return column.cast(pl.List(pl.String)).list.first()
    column = column.cast(pl.String, strict=False)
    return pl.when(column.str.starts_with("[")).then(printed_list(column).list.first()).otherwise(
        column.str.split(separator).list.first())


def clean(value: pl.Expr) -> pl.Expr:
    """Text without HTML tags, entities, control and invisible characters, white space collapsed; null when empty."""
    plain = value.str.replace_many(list(_ENTITIES), list(_ENTITIES.values())).str.replace_all(_MARKUP, " ")
    plain = plain.str.replace_all(_INVISIBLE, " ").str.replace_all(r"\s+", " ").str.strip_chars()
    return pl.when(plain != "").then(plain)
