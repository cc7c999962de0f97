"""Seeded, counter-based randomness on arrays: a draw depends on (seed, purpose, index) alone.

The mixing function is splitmix64 (Steele, Lea, Flood, OOPSLA'14), a bijection of 64-bit numbers: different rows never
share a hash.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Purpose = Literal["ties", "validation users", "test users"]
_PURPOSES: dict[Purpose, int] = {"ties": 1, "validation users": 2, "test users": 3}
_STEP, _FIRST, _SECOND = (np.uint64(v) for v in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def hashes(indices_N: np.ndarray, seed: int, purpose: Purpose) -> np.ndarray:
    """uint64 [N], all different for different indices."""
    start = _mix(_mix(np.array([seed & (2**64 - 1)], np.uint64)) + np.uint64(_PURPOSES[purpose]))
    return _mix(indices_N.astype(np.uint64) + start)


def draw(candidates_N: np.ndarray, count: int, seed: int, purpose: Purpose) -> np.ndarray:
    """``count`` of the candidates, ascending; every candidate has the same chance."""
    order = np.argsort(hashes(candidates_N, seed, purpose))
    return np.sort(candidates_N[order[:count]])


def _mix(value_N: np.ndarray) -> np.ndarray:
    value_N = value_N + _STEP
    value_N = (value_N ^ (value_N >> np.uint64(30))) * _FIRST
    value_N = (value_N ^ (value_N >> np.uint64(27))) * _SECOND
    mixed: np.ndarray = value_N ^ (value_N >> np.uint64(31))
    return mixed
