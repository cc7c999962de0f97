"""Times of any form as whole numbers, and the unit those numbers are in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import polars as pl

from configs.errors import DataError
from pipeline.prepare.raw import TimeUnit

LATEST_S: Final = 4_102_444_800
"""2100-01-01: no interaction is later, in seconds."""
PER_SECOND: Final[dict[str, int]] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

_BANDS = np.array([10**11, 10**14, 10**17], np.int64)
"""Upper ends of what is read as s, ms, us: seconds from 10^11 on lie after the year 5138, milliseconds below it before
1973-03."""
_SAMPLE_ROWS = 1000
_UNITS: Final[tuple[TimeUnit, ...]] = ("s", "ms", "us", "ns")
_NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
_LOCAL_FORMATS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M")
_ZONED_FORMAT = "%Y-%m-%dT%H:%M:%S%.f%#z"


def whole_seconds(name: str) -> pl.Expr:
    """Text of whole numbers as Int64 (``1260759144``, ``1.26e9``, ``1260759144.0``); null where it is none."""
    text = pl.col(name)
    return pl.coalesce(text.cast(pl.Int64, strict=False),
                       text.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False))


def dates(name: str) -> pl.Expr:
    """ISO text (date, or date and time with or without zone; none means UTC) as Int64 microseconds; null elsewhere."""
    text = pl.col(name).str.strip_chars().str.replace(" ", "T", literal=True)
    local = [text.str.to_datetime(form, strict=False, time_unit="us") for form in _LOCAL_FORMATS]
    zoned = text.str.to_datetime(_ZONED_FORMAT, strict=False, time_unit="us").dt.replace_time_zone(None)
    return pl.coalesce(*local, zoned).dt.epoch("us")


def no_times() -> tuple[pl.Expr, TimeUnit]:
    """The time column of a source that has none."""
    return pl.lit(None, pl.Int64), "s"


def times(frame: pl.LazyFrame, name: str, unit: str) -> tuple[pl.Expr, TimeUnit]:
    """The expression that gives a raw time column as Int64, and the unit it is then in.

    ``unit`` is the config's: ``auto`` takes text for numbers when its first value is one, else for ISO dates.
    """
    dtype = frame.select(name).collect_schema()[name]
    if dtype.is_temporal():
        return pl.col(name).cast(pl.Datetime("us")).dt.epoch("us"), "us"
    number_unit: TimeUnit = "auto" if unit in ("auto", "date") else unit  # type: ignore[assignment]
    if dtype.is_integer():
        return pl.col(name).cast(pl.Int64, strict=False), number_unit
    if dtype.is_float():
        return pl.col(name).cast(pl.Int64, strict=False), number_unit
    if unit == "auto":
        sample = frame.select(pl.col(name).str.contains(_NUMBER)).head(_SAMPLE_ROWS).collect(engine="streaming")
        unit = "date" if sample[name].drop_nulls().head(1).to_list() == [False] else "auto"
    return (dates(name), "us") if unit == "date" else (whole_seconds(name), number_unit)


def resolve_unit(times_N: np.ndarray, unit: TimeUnit, name: str, place: Callable[[int], str]) -> TimeUnit:
    """The unit of int64 times ≥ 0: the given one, or told by their size.

    Raises:
        DataError: ``auto``, and numbers of different sizes stand together.
    """
    if unit != "auto":
        return unit
    lowest, highest = (int(np.searchsorted(_BANDS, value, side="right")) for value in (times_N.min(), times_N.max()))
    if lowest != highest:
        bands_N = np.searchsorted(_BANDS, times_N, side="right")
        counts = np.bincount(bands_N, minlength=len(_UNITS))
        rare = min(np.flatnonzero(counts), key=lambda band: int(counts[band]))
        shown = ", ".join(f"{times_N[i]} in {place(int(i))}" for i in np.flatnonzero(bands_N == rare)[:3])
        sizes = ", ".join(f"{count:,} rows in {_UNITS[band]}" for band, count in enumerate(counts) if count)
        raise DataError(f"{name}: times of different units stand together, by their size {sizes} (such as {shown}); "
                        "bring all to one unit")
    return _UNITS[lowest]
