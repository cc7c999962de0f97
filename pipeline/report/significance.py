"""Tests of the report's claims: a teacher's arm against the plain one and against every control.

The family of comparisons is fixed by the configuration, before any figure is seen. Signs of the users' mean
differences are flipped at random (a paired permutation test; Wilcoxon's and sign tests inflate errors on thousands of
users: Ihemelandu & Ekstrand, SIGIR'23), and Holm's step-down keeps the family's error rate (Holm, 1979).

Legend: S seeds, N users.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

_CELLS = 4_000_000
"""Signs drawn at once."""


def sign_flip_p(change_N: np.ndarray, resamples: int, seed: int) -> float:
    """Two-sided p value of the mean of paired differences, exact where all flips are fewer than ``resamples``."""
    if not change_N.any():
        return 1.0

    def mean(x: np.ndarray, axis: int) -> Any:
        return x.mean(axis=axis)

    found = stats.permutation_test(
        (change_N,), mean, permutation_type="samples", vectorized=True, n_resamples=resamples,
        batch=max(1, _CELLS // len(change_N)), rng=np.random.default_rng(seed))
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values: max over the smaller ones of (m - rank)·p, at most 1."""
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values)[order] * (len(p_values) - np.arange(len(p_values)))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(p) for p in adjusted]


def halves(values_SN: np.ndarray) -> np.ndarray | None:
    """Differences between the first half of an arm's seeds and the second, [S // 2, N]: an A/A comparison, in which
    nothing but chance differs. None with one seed."""
    half = len(values_SN) // 2
    return values_SN[:half] - values_SN[half : 2 * half] if half else None
