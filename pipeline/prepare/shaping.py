"""Raw columns brought into our form: interactions, item text without markup, first categories."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from html.entities import html5
from pathlib import Path
from typing import Final

import polars as pl

from configs.errors import DataError
from pipeline.prepare.column_types import Role
from pipeline.prepare.config import InteractionColumns
from pipeline.prepare.ids import raw_id
from pipeline.prepare.raw import ATTRIBUTE, FIELD, RAW_ROW, TIME_FRACTION, UNTIMED, RawPart, RawTables
from pipeline.prepare.tables import TableReader
from pipeline.prepare.times import TimeColumn, has_times, no_times, times
from pipeline.store.columns import CATEGORY, ITEM_ID, REVIEW, SIGNAL, TIMESTAMP, TITLE, USER_ID

_ROLES: Final[dict[str, Role]] = {USER_ID: "id", ITEM_ID: "id", TIMESTAMP: "time", SIGNAL: "number", REVIEW: "text"}
_NOTHING = pl.lit(None, pl.String)
_MARKUP = r"</?[A-Za-z!][^<>]{0,500}>"
_INVISIBLE = r"[\p{Cc}\u200B\u202A-\u202E\u2066-\u2069\uFEFF]+"
_ENTITY: Final = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_PRINTED_LIST = rf"(?s)^\s*\[[\s\[]*(?:(?:{_QUOTED}|null|None)[\s,\[\]]*)*\]\s*$"
"""A whole cell that is a printed list of quoted strings: Python's, JSON's or NumPy's, lists in lists too."""
_DECIMAL_COMMA: Final = r"^([-+]?(?:\d{4,}|0)?),(\d+)$|^([-+]?\d{1,3}),(\d{1,2}|\d{4,})$"
"""A comma that cannot group thousands."""
_NO_NUMBER: Final = ("", "nan", "none", "null", "na", "n/a", "<na>", "-")
"""What stands in a column of numbers where there is none."""


def read_interactions(reader: TableReader, paths: Sequence[Path], columns: InteractionColumns,
                      unit: str = "auto", file_order: bool = False) -> RawTables:
    """The interactions of one or several files, in their order.

    Raises:
        DataError: a file is damaged, lacks a column, or has its times in another form than those before.
    """
    names = {role: str(column) for role, column in (
        (USER_ID, columns.user), (ITEM_ID, columns.item), (TIMESTAMP, columns.timestamp), (SIGNAL, columns.signal),
        (REVIEW, columns.review)) if column is not None}
    needed_for: dict[str, Role] = {}
    for role, name in names.items():
        needed_for.setdefault(name, _ROLES[role])
    raw = [reader.scan(path, needed_for) for path in paths]
    columns_of_times = _in_one_form(
        [times(frame, names[TIMESTAMP], unit) if TIMESTAMP in names else no_times() for frame in raw], raw, paths)
    frames = [_interactions(frame, names, column, file_order)
              for frame, column in zip(raw, columns_of_times, strict=True)]
    written = [frame.select(pl.col(name).cast(pl.String, strict=False).alias(role) for role, name in names.items())
               for frame in raw]

    def parts() -> list[RawPart]:
        return [RawPart(_interactions(rows, names, column, file_order), path, path.stat().st_size, size)
                for path, frame, column in zip(paths, raw, columns_of_times, strict=True)
                for rows, size in reader.parts(path, frame)]

    return RawTables(
        pl.concat(frames, how="diagonal").with_row_index(RAW_ROW), written=pl.concat(written).with_row_index(RAW_ROW),
        time_unit=columns_of_times[0].unit, timeless=columns.timestamp is None, file_order=file_order,
        name=str(paths[0]), keep=reader, parts=parts)


def _in_one_form(columns: Sequence[TimeColumn], raw: Sequence[pl.LazyFrame], paths: Sequence[Path]
                 ) -> Sequence[TimeColumn]:
    """The files' columns of times in one unit: a file in which no row has a time takes that of the others."""
    if len({column.unit for column in columns}) == 1:
        return columns
    timed = [place for place, column in enumerate(columns) if has_times(raw[place], column)] or [0]
    form = columns[timed[0]].unit
    for place in timed:
        if columns[place].unit != form:
            raise DataError(f"{paths[place]}: its times are not in the form of {paths[timed[0]]} (ISO dates in one, "
                            "numbers in the other); bring them to one form")
    return [column if column.unit == form else no_times(form) for column in columns]


def _interactions(raw: pl.LazyFrame, names: Mapping[str, str], time: TimeColumn, file_order: bool) -> pl.LazyFrame:
    dtypes = raw.collect_schema()
    moment = time.whole
    if file_order and TIMESTAMP in names:
        missing = pl.col(names[TIMESTAMP]).is_null()
        if dtypes[names[TIMESTAMP]] == pl.String:
            missing |= pl.col(names[TIMESTAMP]).str.strip_chars() == ""
        elif dtypes[names[TIMESTAMP]].is_float():
            missing |= pl.col(names[TIMESTAMP]).is_nan()
        moment = pl.when(missing).then(pl.lit(UNTIMED, pl.Int64)).otherwise(moment)
    signal = _number(names[SIGNAL], dtypes[names[SIGNAL]]) if SIGNAL in names else pl.lit(None, pl.Float32)
    wanted = [*(raw_id(names[role], dtypes[names[role]]).alias(role) for role in (USER_ID, ITEM_ID)),
              moment.alias(TIMESTAMP), signal.alias(SIGNAL)]
    if time.fraction is not None:
        wanted.append(time.fraction.alias(TIME_FRACTION))
    if REVIEW in names:
        wanted.append(clean(text(names[REVIEW], dtypes[names[REVIEW]])).alias(REVIEW))
    return raw.select(wanted)


def _number(name: str, dtype: pl.DataType) -> pl.Expr:
    """Float32; null where there is no number, infinity where text is there that is none."""
    if dtype != pl.String:
        return pl.col(name).cast(pl.Float32).fill_nan(None)
    return pl.col(name).map_batches(_numbers, return_dtype=pl.Float32, is_elementwise=True)


def _numbers(texts: pl.Series) -> pl.Series:
    found = texts.cast(pl.Float64, strict=False)
    if found.null_count() > texts.null_count():
        plain = texts.str.strip_chars()
        found = found.fill_null(plain.str.replace(_DECIMAL_COMMA, "${1}${3}.${2}${4}").cast(pl.Float64, strict=False))
        unreadable = found.is_null() & ~plain.str.to_lowercase().is_in(_NO_NUMBER)
        found = found.zip_with(~unreadable.fill_null(False), pl.Series([math.inf]))
    return found.fill_nan(None).cast(pl.Float32)


def read_items(reader: TableReader, paths: Sequence[Path], item_id: str, title: str | None, category: str | None,
               fields: Sequence[str], optional: Sequence[str] = (), separator: str = "|") -> pl.LazyFrame:
    """The item columns of ``RawTables.items`` from one or several files, text cleaned but for the categories'.

    Args:
        fields: columns told as text, in this order; all but the ``optional`` ones must be there.
        separator: between several categories in one column.
    """
    required: dict[str, Role] = {item_id: "id"}
    for name in (title, category, *fields):
        if name and name not in optional:
            required.setdefault(name, "text")
    frames = []
    for path in paths:
        raw = reader.scan(path, required, optional)
        dtypes = raw.collect_schema()
        told = [title, *fields] if title else fields
        texts = {name: clean(text(name, dtypes[name])) for name in dict.fromkeys(told) if name in dtypes}
        frames.append(raw.select(
            raw_id(item_id, dtypes[item_id]).alias(ITEM_ID),
            texts.get(title or "", _NOTHING).alias(TITLE),
            (several(category, dtypes[category], separator) if category else _NOTHING).alias(CATEGORY),
            *(texts.get(name, _NOTHING).alias(FIELD + name) for name in fields)))
    return pl.concat(frames)


def read_users(reader: TableReader, paths: Sequence[Path], user_id: str, attributes: Sequence[str]) -> pl.LazyFrame:
    """The user columns of ``RawTables.users``."""
    frames = []
    for path in paths:
        raw = reader.scan(path, {user_id: "id", **{name: "text" for name in attributes if name != user_id}})
        dtypes = raw.collect_schema()
        frames.append(raw.select(raw_id(user_id, dtypes[user_id]).alias(USER_ID),
                                 *(clean(text(name, dtypes[name])).alias(ATTRIBUTE + name) for name in attributes)))
    return pl.concat(frames)


def text(name: str, dtype: pl.DataType) -> pl.Expr:
    """Any column as text: lists, also printed ones (``['a', 'b']``, JSON), joined by commas; 2002.0 is 2002."""
    column = pl.col(name)
    if isinstance(dtype, pl.List):
        return column.cast(pl.List(pl.String)).list.join(", ", ignore_nulls=True)
    column = column.cast(pl.String, strict=False)
    return pl.when(column.str.contains(_PRINTED_LIST)).then(printed_list(column).list.join(", ")).otherwise(
        column.str.replace(r"^(-?\d+)\.0$", "$1"))


def several(name: str, dtype: pl.DataType, separator: str = "|") -> pl.Expr:
    """Several categories in one column, as lists."""
    column = pl.col(name)
    if isinstance(dtype, pl.List):
        return column.cast(pl.List(pl.String))
    column = column.cast(pl.String, strict=False)
    return pl.when(column.str.contains(_PRINTED_LIST)).then(printed_list(column)).otherwise(column.str.split(separator))


def printed_list(column: pl.Expr) -> pl.Expr:
    """``['A' 'B'\\n 'C']`` or ``["A", "B"]`` → the quoted texts."""
    return column.str.extract_all(_QUOTED).list.eval(
        pl.element().str.replace(r"^['\"]((?s:.)*)['\"]$", "$1").str.replace_all(r"\\(['\"])", "$1"))


def clean(value: pl.Expr) -> pl.Expr:
    """Text without HTML tags, entities, control and invisible characters, white space collapsed; null when empty."""
    plain = value.map_batches(_without_entities, return_dtype=pl.String, is_elementwise=True)
    plain = plain.str.replace_all(_MARKUP, " ").str.replace_all(_INVISIBLE, " ")
    plain = plain.str.replace_all(r"\s+", " ").str.strip_chars()
    return pl.when(plain != "").then(plain)


def _without_entities(texts: pl.Series) -> pl.Series:
    """Named and numeric HTML entities as the characters they stand for; what only looks like one stays."""
    rows = texts.str.contains("&", literal=True).fill_null(False).arg_true()
    if not len(rows):
        return texts
    return texts.scatter(rows, [_ENTITY.sub(_character, text) for text in texts.gather(rows).to_list()])


def _character(entity: re.Match[str]) -> str:
    found = entity.group()
    return html.unescape(found) if found[1] == "#" or found[1:] in html5 else found
