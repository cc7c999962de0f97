"""Times of any form as whole numbers, and the unit those numbers are in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from pipeline.prepare.calendar_numbers import WIDTHS, calendar_micros, calendar_valid
from pipeline.prepare.raw import TimeUnit
from pipeline.work.progress import say

LATEST_S: Final = 4_102_444_800
"""2100-01-01: no interaction is later, in seconds."""
PER_SECOND: Final[dict[str, int]] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
LEGAL_TIMES: Final = (
    "in all rows of one form: Unix time in s, ms, us or ns (1600000000, 1600000000.25), a date or date and time as in "
    "ISO 8601 (2020-09-13, 2020-09-13T12:26:40.5+02:00; UTC where no zone is given), or YYYYMMDD")

_SAMPLE_ROWS = 1000
_NUMBER = r"^\s*[-+]?(\d+[.,]?\d*|[.,]\d+)([eE][-+]?\d+)?\s*$"
_FORMS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M")
_ZONED_FORMS = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z")
_VARIANTS = ((r"^(\d{4})/(\d{2})/(\d{2})", "${1}-${2}-${3}"), (r"^(\d{4}-\d{2}-\d{2})\s+", "${1}T"),
             (r"^(\d{4})(\d{2})(\d{2})T(\d{2}):?(\d{2}):?(\d{2})", "${1}-${2}-${3}T${4}:${5}:${6}"),
             (r"(\d),(\d)", "${1}.${2}"), (r"\s*(UTC|GMT|[Zz])$", "+00:00"), (r"\s+([-+]\d{2}:?\d{2})$", "${1}"),
             (r"(T\S+[-+]\d{2})$", "${1}:00"))
"""What is written in place of ISO's own signs: slashes, a space, a decimal comma, names of UTC, a zone of hours."""


@dataclass(frozen=True)
class TimeColumn:
    """A raw time column as numbers."""

    whole: pl.Expr
    """Int64 in ``unit``; null where there is no time or none that can be read."""
    unit: TimeUnit
    fraction: pl.Expr | None = None
    """Float32 in [0, 1) of ``unit``; None: the form has no fractions."""


def no_times(unit: TimeUnit = "s") -> TimeColumn:
    """The time column of a source, or of a file, that has none."""
    return TimeColumn(pl.lit(None, pl.Int64), unit)


def has_times(frame: pl.LazyFrame, column: TimeColumn) -> bool:
    """Whether any row has a time that can be read: by the first rows, by all where those have none."""
    return any(rows.select(column.whole.is_not_null().any()).collect(engine="streaming").item()
               for rows in (frame.head(_SAMPLE_ROWS), frame))


def times(frame: pl.LazyFrame, name: str, unit: str) -> TimeColumn:
    """How a raw column of any type is read as times.

    Args:
        unit: the config's. ``auto`` takes text for ISO dates where most of its first values are such dates, else for
            numbers; ``date`` takes numbers for YYYYMMDD.
    """
    dtype = frame.select(name).collect_schema()[name]
    column = pl.col(name)
    if dtype.is_temporal():
        return TimeColumn(column.cast(pl.Datetime("us")).dt.epoch("us"), "us")
    if dtype == pl.Float32:
        say(f"prepare: warning: column {name!r} holds times as 32-bit floats, which cannot tell Unix seconds less than "
            "64 s apart; the order within is drawn; save the times as integers or 64-bit floats")
    if dtype == pl.String and (unit == "date" or (unit == "auto" and _mostly_dates(frame, name))):
        return TimeColumn(dates(name), "us")
    if dtype != pl.String and unit == "date":
        return TimeColumn(column.cast(pl.Int64, strict=False).map_batches(
            _calendar_dates, return_dtype=pl.Int64, is_elementwise=True), "us")
    number_unit: TimeUnit = "auto" if unit == "auto" else unit  # type: ignore[assignment]
    if dtype.is_integer():
        return TimeColumn(column.cast(pl.Int64, strict=False), number_unit)
    return _number_column(column, dtype, number_unit)


def _number_column(column: pl.Expr, dtype: pl.DataType, unit: TimeUnit) -> TimeColumn:
    if dtype == pl.String:
        return TimeColumn(column.map_batches(_whole, return_dtype=pl.Int64, is_elementwise=True), unit,
                          column.map_batches(_fraction, return_dtype=pl.Float32, is_elementwise=True))
    value = column.cast(pl.Float64, strict=False)
    return TimeColumn(value.floor().cast(pl.Int64, strict=False), unit, (value - value.floor()).cast(pl.Float32))


def _whole(texts: pl.Series) -> pl.Series:
    """Int64; whole numbers do not go through floats, which hold no nanoseconds."""
    found = texts.cast(pl.Int64, strict=False)
    if found.null_count() > texts.null_count():
        plain = texts.str.strip_chars()
        found = found.fill_null(plain.cast(pl.Int64, strict=False)).fill_null(
            _floats(plain).floor().cast(pl.Int64, strict=False))
    return found


def _fraction(texts: pl.Series) -> pl.Series:
    whole = texts.cast(pl.Int64, strict=False)
    if whole.null_count() == texts.null_count():
        return pl.repeat(0, len(texts), dtype=pl.Float32, eager=True).alias(texts.name)
    value = _floats(texts.str.strip_chars())
    return (value - value.floor()).cast(pl.Float32)


def _floats(texts: pl.Series) -> pl.Series:
    return texts.str.replace(",", ".", literal=True).cast(pl.Float64, strict=False)


def whole_seconds(name: str) -> pl.Expr:
    """Text of numbers as Int64 (``1260759144``, ``1.26e9``, ``1260759144.0``), fractions cut; null where it is none."""
    return _number_column(pl.col(name), pl.String(), "s").whole


def dates(name: str) -> pl.Expr:
    """Text of dates, or dates and times with or without zone (none: UTC), as Int64 microseconds; null elsewhere."""
    return pl.col(name).map_batches(_iso_dates, return_dtype=pl.Int64, is_elementwise=True)


def _mostly_dates(frame: pl.LazyFrame, name: str) -> bool:
    """Whether more of the values are dates than numbers: by the first rows, by all where those are neither."""
    is_date, is_number = dates(name).is_not_null(), pl.col(name).str.contains(_NUMBER)
    for rows in (frame.head(_SAMPLE_ROWS), frame):
        found = rows.select(is_date.sum().alias("dates"), is_number.sum().alias("numbers")).collect(engine="streaming")
        dated, numbered = found.row(0)
        if dated or numbered:
            return bool(dated > numbered)
    return False


def _iso_dates(texts: pl.Series) -> pl.Series:
    found = _parsed(texts.str.strip_chars(), _FORMS)
    if found.null_count() > texts.null_count():
        plain = texts.str.strip_chars()
        for pattern, replacement in _VARIANTS:
            plain = plain.str.replace(pattern, replacement)
        found = found.fill_null(_parsed(plain, (*_FORMS, *_ZONED_FORMS)))
        found = found.fill_null(_calendar_dates(plain.cast(pl.Int64, strict=False)))
    return found


def _parsed(texts: pl.Series, forms: tuple[str, ...]) -> pl.Series:
    found = pl.Series(texts.name, [None], pl.Int64).new_from_index(0, len(texts))
    for form in forms:
        moments = texts.str.to_datetime(form, strict=False, time_unit="us")
        found = found.fill_null(moments.dt.replace_time_zone(None).dt.epoch("us"))
        if found.null_count() == texts.null_count():
            break
    return found


def _calendar_dates(numbers: pl.Series) -> pl.Series:
    """YYYYMMDD (also with a time of day) as Int64 microseconds; null elsewhere."""
    values = numbers.fill_null(0).to_numpy()
    micros, valid = np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    for width in WIDTHS:
        fits = calendar_valid(values, width)
        micros[fits] = calendar_micros(values[fits], width)
        valid |= fits
    return pl.Series(numbers.name, micros).scatter(np.flatnonzero(~valid), None)
