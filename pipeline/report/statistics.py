"""Means over seeds, and intervals of paired differences by the bootstrap.

Users and seeds are crossed: every seed ranks the same test users. Users are drawn with replacement, as many as there
are; of S seeds S - 1 are drawn (Rao & Wu, 1988), which makes the seeds' share of the variance right for few seeds,
where S draws of S would understate it by the factor (S - 1) / S. With one seed only users are drawn.

Legend: S seeds, N users, M quantities, R resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_CHUNK_CELLS = 4_000_000
"""Draws held in memory at once."""


@dataclass(frozen=True)
class Interval:
    """A mean difference and what resampling says of it."""

    mean: float
    low: float
    high: float
    share_above_zero: float
    """Share of resamples whose mean difference is above 0."""

    @property
    def verdict(self) -> str:
        """Where the interval lies: ``above 0``, ``below 0`` or ``includes 0``."""
        return "above 0" if self.low > 0 else "below 0" if self.high < 0 else "includes 0"


def mean_and_deviation(values_S: list[float]) -> tuple[float, float | None]:
    """Mean over seeds and the sample standard deviation (S - 1 below the line); None for one seed."""
    mean = math.fsum(values_S) / len(values_S)
    if len(values_S) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values_S) / (len(values_S) - 1))


def resampled_means(values_SNM: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means over resampled users and seeds, fp64 [R, M]; all quantities share each resample.

    Args:
        values_SNM: one value per seed, user and quantity.
        resamples: R.
        seed: the same seed, S and N give the same resamples.
    """
    seeds, users, quantities = values_SNM.shape
    rng = np.random.default_rng(seed)
    flat_NK = np.ascontiguousarray(values_SNM.transpose(1, 0, 2).reshape(users, seeds * quantities), np.float32)
    means = np.empty((resamples, quantities))
    chunk = max(1, _CHUNK_CELLS // users)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        sums_RSM = (_user_counts(rng, rows, users) @ flat_NK).reshape(rows, seeds, quantities).astype(np.float64)
        means[start : start + rows] = np.einsum("rsm,rs->rm", sums_RSM, _seed_weights(rng, rows, seeds)) / users
    return means


def intervals(values_SNM: np.ndarray, resamples: int, confidence: float, seed: int) -> list[Interval]:
    """The interval of each quantity's mean over seeds and users: percentiles of :func:`resampled_means`."""
    means_RM = resampled_means(values_SNM, resamples, seed)
    tail = (1.0 - confidence) / 2.0
    low_M, high_M = np.quantile(means_RM, [tail, 1.0 - tail], axis=0)
    mean_M = values_SNM.mean(axis=(0, 1), dtype=np.float64)
    above_M = (means_RM > 0).mean(axis=0)
    return [Interval(*map(float, row)) for row in zip(mean_M, low_M, high_M, above_M, strict=True)]


def _user_counts(rng: np.random.Generator, rows: int, users: int) -> np.ndarray:
    """How often each user is drawn: fp32 [rows, N], each row sums to N."""
    drawn = rng.integers(0, users, size=(rows, users), dtype=np.int32)
    drawn += np.arange(rows, dtype=np.int32)[:, None] * users
    return np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users).astype(np.float32)


def _seed_weights(rng: np.random.Generator, rows: int, seeds: int) -> np.ndarray:
    """Each seed's weight, fp64 [rows, S], each row sums to 1."""
    if seeds == 1:
        return np.ones((rows, 1))
    drawn = rng.integers(0, seeds, size=(rows, seeds - 1)) + np.arange(rows)[:, None] * seeds
    return np.bincount(drawn.ravel(), minlength=rows * seeds).reshape(rows, seeds) / (seeds - 1)
