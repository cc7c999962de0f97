"""Membership in ascending arrays, by binary search: no sort of what is known, and no hash table of it.

Legend: K known values, N values looked up.
"""

from __future__ import annotations

import numpy as np


def places(known_K: np.ndarray, values_N: np.ndarray) -> np.ndarray:
    """int64, the shape of ``values_N``: where each stands in the ascending ``known_K``; -1 where it does not."""
    if not len(known_K):
        return np.full(values_N.shape, -1, np.int64)
    place_N = np.minimum(np.searchsorted(known_K, values_N), len(known_K) - 1)
    return np.where(known_K[place_N] == values_N, place_N, -1)


def held(known_K: np.ndarray, values_N: np.ndarray) -> np.ndarray:
    """bool, the shape of ``values_N``: which of them stand in the ascending ``known_K``."""
    known: np.ndarray = places(known_K, values_N) >= 0
    return known


class Met:
    """Values that were met, as ascending runs, each at least twice as long as the next: however many parts they come
    in, a value is merged at most log2(K) times."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._dtype = dtype
        self._runs: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def new(self, values_N: np.ndarray) -> np.ndarray:
        """Ascending places, in ``values_N``, of the values not met before, each once; they are met from now on."""
        met_N = np.zeros(len(values_N), np.bool_)
        for run in self._runs:
            met_N |= held(run, values_N)
        fresh = np.flatnonzero(~met_N)
        run, first = np.unique(values_N[fresh].astype(self._dtype, copy=False), return_index=True)
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")  # two ascending runs: one merge
        if len(run):
            self._runs.append(run)
        return np.sort(fresh[first])
