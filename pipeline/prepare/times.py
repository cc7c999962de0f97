"""Times of any form as whole numbers, and the unit those numbers are in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl

from configs.errors import DataError
from pipeline.prepare.calendar_numbers import WIDTHS, calendar_micros, calendar_valid
from pipeline.prepare.raw import TimeUnit
from pipeline.work.progress import say

LATEST_S: Final = 4_102_444_800
"""2100-01-01: no interaction is later, in seconds."""
PER_SECOND: Final[dict[str, int]] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
LEGAL_TIMES: Final = (
    "in all rows of one form: Unix time in s, ms, us or ns (1600000000, 1600000000.25), a date or date and time as in "
    "ISO 8601 (2020-09-13, 2020-09-13T12:26:40.5+02:00; UTC where no zone is given), or YYYYMMDD")

_BANDS = np.array([10**11, 10**14, 10**17], np.int64)
"""Upper ends of what is read as s, ms, us: seconds from 10^11 on lie after the year 5138, milliseconds below it before
1973-03."""
_SAMPLE_ROWS = 1000
_UNITS: Final[tuple[TimeUnit, ...]] = ("s", "ms", "us", "ns")
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


def no_times() -> TimeColumn:
    """The time column of a source that has none."""
    return TimeColumn(pl.lit(None, pl.Int64), "s")


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


@dataclass(frozen=True)
class TimeForm:
    """How the whole numbers of a time column are read."""

    unit: TimeUnit
    """Of what ``apply`` gives."""
    given: TimeUnit
    """Of the numbers as they stand; of dates YYYYMMDD that of ``apply``."""
    width: int | None = None
    """Digits of dates YYYYMMDD (and time of day); None: they are no such dates."""

    def with_fractions(self) -> TimeForm:
        """The same where times have fractions: seconds and milliseconds become microseconds, the smallest unit kept."""
        return replace(self, unit="us") if self.unit in ("s", "ms") else self

    def apply(self, times_N: np.ndarray, fractions_N: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """int64 [N] times in ``unit`` (0 where too late and scaled), bool [N]: after 2100."""
        if self.width is not None:
            times_N = calendar_micros(times_N, self.width)
        late_N = times_N >= LATEST_S * PER_SECOND[self.given]
        if self.unit == self.given:
            return times_N, late_N
        scale = PER_SECOND[self.unit] // PER_SECOND[self.given]
        scaled_N = np.where(late_N, 0, times_N) * scale
        if fractions_N is not None:
            scaled_N += np.rint(fractions_N.astype(np.float64) * scale).astype(np.int64)
        return scaled_N, late_N


RowsAndTimes = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]
"""Anew at each call: raw rows and their times ≥ 0, piece by piece."""


def resolve_form(times: RowsAndTimes, unit: TimeUnit, name: str, place: Callable[[int], str]) -> TimeForm | None:
    """What the numbers are: of the given unit, or told by their size; dates YYYYMMDD become microseconds.

    Returns None where there are no times.

    Raises:
        DataError: ``auto``, and numbers of different sizes, or dates and other numbers, stand together.
    """
    total, bands, dates, first = 0, np.zeros(len(_UNITS), np.int64), dict.fromkeys(WIDTHS, 0), 0
    for _, times_N in times():
        first = int(times_N[0]) if not total and len(times_N) else first
        total += len(times_N)
        if total and unit != "auto":
            return TimeForm(unit, unit)
        bands += np.bincount(np.searchsorted(_BANDS, times_N, side="right"), minlength=len(_UNITS))
        for width in WIDTHS:
            dates[width] += int(np.count_nonzero(calendar_valid(times_N, width)))
    if not total:
        return None
    for width, count in dates.items():
        if 2 * count > total:
            if count < total:
                raise _some_dates(times, width, count, total, name, place)
            say(f"prepare: note: {name}: times such as {first} are read as dates {WIDTHS[width]}; "
                "prepare.source.timestamp_unit=s reads them as seconds")
            return TimeForm("us", "us", width)
    found = np.flatnonzero(bands)
    if len(found) > 1:
        rare = min(found, key=lambda band: int(bands[band]))
        shown = _shown(times, lambda times_N: np.searchsorted(_BANDS, times_N, side="right") == rare, place)
        sizes = ", ".join(f"{count:,} rows in {_UNITS[band]}" for band, count in enumerate(bands) if count)
        raise DataError(f"{name}: times of different units stand together, by their size {sizes} (such as {shown}); "
                        "bring all to one unit")
    return TimeForm(_UNITS[found[0]], _UNITS[found[0]])


def _some_dates(times: RowsAndTimes, width: int, count: int, total: int, name: str, place: Callable[[int], str]
                ) -> DataError:
    example = next(int(times_N[np.argmax(valid)]) for _, times_N in times()
                   if (valid := calendar_valid(times_N, width)).any())
    shown = _shown(times, lambda times_N: ~calendar_valid(times_N, width), place)
    return DataError(f"{name}: {count:,} times look like {WIDTHS[width]} (such as {example}), {total - count:,} do not "
                     f"({shown}); say what they are with prepare.source.timestamp_unit=date (the others are bad rows "
                     "then), s, ms, us or ns")


def _shown(times: RowsAndTimes, odd: Callable[[np.ndarray], np.ndarray], place: Callable[[int], str]) -> str:
    """The first three times that are odd, and where they stand."""
    found = (f"{times_N[i]} in {place(int(rows_N[i]))}" for rows_N, times_N in times()
             for i in np.flatnonzero(odd(times_N)))
    return ", ".join(itertools.islice(found, 3))
