"""Rows of different lengths, end to end in one flat array. Imports no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def offsets_of(lengths_N: ArrayLike) -> np.ndarray:
    """Where rows of these lengths begin, and where the last one ends: int64 [N + 1]."""
    lengths_N = np.asarray(lengths_N, np.int64)
    offsets = np.zeros(len(lengths_N) + 1, np.int64)
    np.cumsum(lengths_N, out=offsets[1:])
    return offsets


def bounds(lengths_N: np.ndarray, most: int) -> np.ndarray:
    """First rows of consecutive groups whose lengths sum to ``most`` at most, int64; a longer row is a group alone."""
    ends_N = offsets_of(lengths_N)[1:]
    first, before, found = 0, 0, []
    while first < len(ends_N):
        found.append(first)
        first = max(first + 1, int(np.searchsorted(ends_N, before + most, side="right")))
        before = int(ends_N[first - 1])
    return np.array(found, np.int64)
