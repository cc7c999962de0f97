"""Means over seeds, and intervals of paired differences.

Users and seeds are crossed: every seed ranks the same test users. Users are drawn with replacement, as many as there
are (bootstrap). Few seeds cannot be drawn so: the extreme one comes too often. Their part of the error is a normal draw
with the variance of the seeds' means over S, and because S means tell that variance but roughly, deviations from the
mean are widened by t/z of ν = (S - 1)·(1 + V_users / V_seeds)² degrees of freedom (Satterthwaite, 1946; users are many,
their variance counts as known). Where nothing differs, intervals of 95 % lie above 0 in about 2.5 % of cases, with two
seeds in up to 5 %. With one seed only users are drawn, and other seeds may differ by more.

Legend: S seeds, N users, M quantities, R resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

_CHUNK_CELLS = 4_000_000
"""Draws held in memory at once."""
_MANY: Final = 1e9
"""Degrees of freedom that make t a normal."""
FEWEST_USERS: Final = 10
"""Of fewer users no interval says where the mean lies: those of one or two may have no width at all."""
TOO_FEW: Final = "too few users"


@dataclass(frozen=True)
class Interval:
    """A mean difference and what resampling says of it."""

    mean: float
    low: float
    high: float
    share_above_zero: float
    """Share of resamples whose mean difference is above 0."""
    users: int
    p: float
    """Two-sided, of the mean against its error over users and seeds, Student's t with ν degrees of freedom."""

    @property
    def verdict(self) -> str:
        """Where the interval lies: ``above 0``, ``below 0`` or ``includes 0``; ``too few users`` tell nothing."""
        if self.users < FEWEST_USERS:
            return TOO_FEW
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
    values_NM = values_SNM.mean(axis=0).astype(np.float32)
    error_M = np.sqrt(_seed_variance(values_SNM))
    means = np.empty((resamples, quantities))
    chunk = max(1, _CHUNK_CELLS // users)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        found = means[start : start + rows]
        found[:] = (_user_counts(rng, rows, users) @ values_NM).astype(np.float64) / users
        if seeds > 1:
            found += rng.normal(size=(rows, 1)) * error_M
    return means


def intervals(values_SNM: np.ndarray, resamples: int, confidence: float, seed: int) -> list[Interval]:
    """The interval of each quantity's mean over seeds and users: percentiles of :func:`resampled_means`, widened where
    seeds are few."""
    tail = (1.0 - confidence) / 2.0
    mean_M = values_SNM.mean(axis=(0, 1), dtype=np.float64)
    means_RM = resampled_means(values_SNM, resamples, seed)
    seeds, users = values_SNM.shape[:2]
    error_M, freedom_M = _errors(values_SNM)
    if seeds > 1:
        means_RM = mean_M + (means_RM - mean_M) * stdtrit(freedom_M, 1 - tail) / ndtri(1 - tail)
    low_M, high_M = np.quantile(means_RM, [tail, 1.0 - tail], axis=0)
    above_M = (means_RM > 0).mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):  # no error: any difference is certain
        p_M = np.where(mean_M == 0, 1.0, 2 * stdtr(freedom_M, -np.abs(mean_M) / error_M))
    return [Interval(float(mean), float(low), float(high), float(above), users, float(p))
            for mean, low, high, above, p in zip(mean_M, low_M, high_M, above_M, p_M, strict=True)]


def _seed_variance(values_SNM: np.ndarray) -> np.ndarray:
    """The seeds' part of a mean's variance, [M]; one seed tells none."""
    seeds = len(values_SNM)
    means_SM = values_SNM.mean(axis=1, dtype=np.float64)
    return means_SM.var(axis=0, ddof=1) / seeds if seeds > 1 else np.zeros(means_SM.shape[1])


def _errors(values_SNM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The standard error of each quantity's mean over users and seeds, and its degrees of freedom, each [M]."""
    seeds, users = values_SNM.shape[:2]
    of_seeds_M, of_users_M = _seed_variance(values_SNM), values_SNM.mean(axis=0).var(axis=0) / users
    freedom = [degrees_of_freedom(*parts, seeds) for parts in zip(of_seeds_M, of_users_M, strict=True)]
    return np.sqrt(of_seeds_M + of_users_M), np.minimum(freedom, _MANY)


def degrees_of_freedom(of_seeds: float, of_users: float, seeds: int) -> float:
    """Of the sum of two variances, the first of which some seeds tell (Satterthwaite, 1946); inf: it is nothing."""
    share = of_seeds / (of_seeds + of_users) if of_seeds > 0 else 0.0
    return (seeds - 1) / share**2 if share > 1e-6 else math.inf


def _user_counts(rng: np.random.Generator, rows: int, users: int) -> np.ndarray:
    """How often each user is drawn: fp32 [rows, N], each row sums to N."""
    drawn = rng.integers(0, users, size=(rows, users), dtype=np.int32)
    drawn += np.arange(rows, dtype=np.int32)[:, None] * users
    return np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users).astype(np.float32)
