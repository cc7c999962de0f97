"""Dates that are written as one number: 20240128, or 20240128123000 with the time of day."""

from __future__ import annotations

from typing import Final

import numpy as np

WIDTHS: Final[dict[int, str]] = {8: "YYYYMMDD", 12: "YYYYMMDDHHMM", 14: "YYYYMMDDHHMMSS"}
"""Number of digits → the form."""
_FIRST_YEAR, _LAST_YEAR = 1900, 2100
_DAY_US = 86_400_000_000


def calendar_valid(numbers_N: np.ndarray, width: int) -> np.ndarray:
    """bool [N]: the number has this many digits and is a date (and a time of day) of the years 1900 to 2100."""
    scale = 10 ** (width - 4)
    valid: np.ndarray = (numbers_N >= _FIRST_YEAR * scale) & (numbers_N < (_LAST_YEAR + 1) * scale)
    candidates = np.flatnonzero(valid)
    if len(candidates):
        month, day, hour, minute, second = _parts(numbers_N[candidates], width)[1:]
        valid[candidates] = (month >= 1) & (month <= 12) & (day >= 1) & (hour < 24) & (minute < 60) & (second < 60)
        candidates = np.flatnonzero(valid)
        year, month, day = _parts(numbers_N[candidates], width)[:3]
        start = _month_start(year, month)
        valid[candidates] = day <= (_month_start(year, month + 1) - start).astype(np.int64)
    return valid


def calendar_micros(numbers_N: np.ndarray, width: int) -> np.ndarray:
    """int64 [N]: Unix microseconds (UTC) of valid numbers."""
    year, month, day, hour, minute, second = _parts(numbers_N, width)
    days = _month_start(year, month).astype(np.int64) + day - 1
    micros: np.ndarray = days * _DAY_US + ((hour * 60 + minute) * 60 + second) * 1_000_000
    return micros


def _parts(numbers_N: np.ndarray, width: int) -> tuple[np.ndarray, ...]:
    """Year, month, day, hour, minute, second."""
    full = numbers_N * 10 ** (14 - width)
    return (full // 10**10, full // 10**8 % 100, full // 10**6 % 100, full // 10**4 % 100, full // 100 % 100,
            full % 100)


def _month_start(year: np.ndarray, month: np.ndarray) -> np.ndarray:
    """datetime64[D]; month 13 is the next January."""
    return ((year - 1970) * 12 + month - 1).astype("datetime64[M]").astype("datetime64[D]")
