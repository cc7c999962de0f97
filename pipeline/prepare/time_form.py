"""What the whole numbers of a time column are: told by their sizes, which are counted piece by piece.

Legend: N rows of a piece.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from configs.errors import DataError
from pipeline.prepare.calendar_numbers import WIDTHS, calendar_micros, calendar_valid
from pipeline.prepare.raw import TimeUnit
from pipeline.prepare.times import LATEST_S, PER_SECOND
from pipeline.work.progress import say

_BANDS = np.array([10**11, 10**14, 10**17], np.int64)
"""Upper ends of what is read as s, ms, us: seconds from 10^11 on lie after the year 5138, milliseconds below it before
1973-03."""
_UNITS: Final[tuple[TimeUnit, ...]] = ("s", "ms", "us", "ns")


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


@dataclass(frozen=True)
class TimeSizes:
    """Times ≥ 0 of some rows by their size."""

    first: int | None
    """The first of them; None: there are none."""
    bands: Counter[int]
    """Place among ``_UNITS`` → times of that size."""
    dates: Counter[int]
    """Digits → times that are dates YYYYMMDD (and time of day) of so many."""

    @classmethod
    def of(cls, times_N: np.ndarray, counted: bool) -> TimeSizes:
        """Of a piece; where sizes do not matter none are counted."""
        first = int(times_N[0]) if len(times_N) else None
        if not counted:
            return cls(first, Counter(), Counter())
        bands = np.bincount(np.searchsorted(_BANDS, times_N, side="right"), minlength=len(_UNITS))
        return cls(first, Counter(dict(enumerate(bands.tolist()))),
                   Counter({width: int(np.count_nonzero(calendar_valid(times_N, width))) for width in WIDTHS}))

    @classmethod
    def joined(cls, found: Iterable[TimeSizes]) -> TimeSizes:
        """Of all rows, piece by piece."""
        first, bands, dates = None, Counter[int](), Counter[int]()
        for sizes in found:
            first = sizes.first if first is None else first
            bands.update(sizes.bands)
            dates.update(sizes.dates)
        return cls(first, bands, dates)


RowsAndTimes = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]
"""Anew at each call: raw rows and their times ≥ 0, piece by piece; for messages alone."""


def resolve_form(sizes: TimeSizes, times: RowsAndTimes, unit: TimeUnit, name: str, place: Callable[[int], str]
                 ) -> TimeForm | None:
    """What the numbers are: of the given unit, or told by their size; dates YYYYMMDD become microseconds.

    Returns None where there are no times.

    Raises:
        DataError: ``auto``, and numbers of different sizes, or dates and other numbers, stand together.
    """
    if sizes.first is None:
        return None
    if unit != "auto":
        return TimeForm(unit, unit)
    total = sizes.bands.total()
    for width in WIDTHS:
        count = sizes.dates[width]
        if 2 * count > total:
            if count < total:
                raise _some_dates(times, width, count, total, name, place)
            say(f"prepare: note: {name}: times such as {sizes.first} are read as dates {WIDTHS[width]}; "
                "prepare.source.timestamp_unit=s reads them as seconds")
            return TimeForm("us", "us", width)
    found = [band for band in range(len(_UNITS)) if sizes.bands[band]]
    if len(found) > 1:
        rare = min(found, key=lambda band: sizes.bands[band])
        shown = _shown(times, lambda times_N: np.searchsorted(_BANDS, times_N, side="right") == rare, place)
        told = ", ".join(f"{sizes.bands[band]:,} rows in {_UNITS[band]}" for band in found)
        raise DataError(f"{name}: times of different units stand together, by their size {told} (such as {shown}); "
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
