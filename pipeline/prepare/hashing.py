"""Seeded, counter-based randomness on arrays: a draw depends on (seed, purpose, index) alone.

The mixing function is a bijection of 64-bit numbers: different rows never share a hash.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from models.splitmix import STEP, finalise

Purpose = Literal["ties", "validation users", "test users", "cold items", "removed items", "cut lengths", "cut rows"]
_PURPOSES: dict[Purpose, int] = {name: number for number, name in enumerate(get_args(Purpose), 1)}


def hashes(indices_N: np.ndarray, seed: int, purpose: Purpose) -> np.ndarray:
    """uint64 [N], all different for different indices."""
    start = _mix(_mix(np.array([seed & (2**64 - 1)], np.uint64)) + np.uint64(_PURPOSES[purpose]))
    return _mix(indices_N.astype(np.uint64) + start)


def draw(candidates_N: np.ndarray, count: int, seed: int, purpose: Purpose) -> np.ndarray:
    """``count`` of the candidates, ascending; every candidate has the same chance."""
    order = np.argsort(hashes(candidates_N, seed, purpose))
    return np.sort(candidates_N[order[:count]])


def _mix(value_N: np.ndarray) -> np.ndarray:
    return finalise(value_N + np.uint64(STEP), lambda value, bits: value >> np.uint64(bits),
                    lambda value, factor: value * np.uint64(factor), np.bitwise_xor)
