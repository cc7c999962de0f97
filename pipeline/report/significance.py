"""Tests of the report's claims: a teacher's arm against the plain one and against every control.

The family of comparisons is fixed by the configuration, before any figure is seen. Signs of the users' mean
differences are flipped at random (a paired permutation test; Wilcoxon's and sign tests inflate errors on thousands of
users: Ihemelandu & Ekstrand, SIGIR'23), and Holm's step-down keeps the family's error rate (Holm, 1979).

That asks what other users would have shown of these trained models. What other seeds would have shown as well,
Student's t over users and seeds asks (``statistics``); the larger p value counts, so that the correction is of both.

Legend: S seeds, N users, R flips.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_CELLS = 4_000_000
"""Signs held at once."""


def sign_flip_p(change_N: np.ndarray, resamples: int, seed: int) -> float:
    """Two-sided p value of the mean of paired differences: exact where all flips are no more than ``resamples``, else
    (as extreme ones + 1) / (resamples + 1) (Phipson & Smyth, 2010)."""
    moved_N = change_N[change_N != 0].astype(np.float64)  # no sign changes the others
    exact = len(moved_N) < resamples.bit_length()  # 2^N ≤ resamples
    flips = 2 ** len(moved_N) if exact else resamples
    rng = np.random.default_rng(seed)
    turned_R = np.zeros(flips)
    chunk = max(1, _CELLS // flips)
    for start in range(0, len(moved_N), chunk):
        part = moved_N[start : start + chunk]
        signs_RN = (np.arange(flips)[:, None] >> np.arange(start, start + len(part))) & 1 if exact else (
            rng.integers(0, 2, size=(flips, len(part)), dtype=np.int8))
        turned_R += signs_RN.astype(np.float64) @ part
    total = moved_N.sum()
    rounding = 1e-12 * np.abs(moved_N).sum()
    extreme = int((np.abs(total - 2.0 * turned_R) >= abs(total) - rounding).sum())
    return extreme / flips if exact else (extreme + 1) / (flips + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values: max over the smaller ones of (m - rank)·p, at most 1."""
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values)[order] * (len(p_values) - np.arange(len(p_values)))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(p) for p in adjusted]


def halves(values_SN: np.ndarray) -> np.ndarray | None:
    """Differences between the first half of an arm's seeds and the second, [S // 2, N]: an A/A comparison, in which
    nothing but chance differs, of fewer seeds than the arm has. None with one seed."""
    half = len(values_SN) // 2
    return values_SN[:half] - values_SN[half : 2 * half] if half else None
