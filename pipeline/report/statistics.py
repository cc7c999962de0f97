"""Means over seeds, and intervals of paired differences.

Users and seeds are crossed: every seed ranks the same test users. Users are drawn with replacement, as many as there
are (bootstrap). Few seeds cannot be drawn so: the extreme one comes too often. Their part of the error is a normal draw
with the variance of the seeds' means over S, and because S means tell that variance but roughly, deviations from the
mean are widened by t/z of ν = (S - 1)·(1 + V_users / V_seeds)² degrees of freedom (Satterthwaite, 1946; users are many,
their variance counts as known). Where nothing differs, intervals of 95 % lie above 0 in about 2.5 % of cases, with two
seeds in up to 6 %. Far out in the tail, where a family's correction looks, it is worse: where seeds differ much more
than users tell (V_seeds / V_users of 10), p falls below .05/6 nine times too often with two seeds, four times with
three, twice with five, as seeds that agree by chance pass for a small variance. With one seed only users are drawn, and
other seeds may differ by more.

Users may come in clusters that are drawn whole, as those that share a target item where a slice holds drawn items: the
items of another draw would be others. As C of them may be few, their variance is told by C - 1, and ν counts it, too.

Legend: S seeds, N users, M quantities, R resamples, C clusters.
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
TOO_FEW: Final = "too few to tell"


@dataclass(frozen=True)
class Interval:
    """A mean difference and what resampling says of it."""

    mean: float
    low: float
    high: float
    share_above_zero: float
    """Share of resamples whose mean difference is above 0."""
    units: int
    """Users, or clusters of them, that were drawn."""
    p: float
    """Two-sided, of the mean against its error over users and seeds, Student's t with ν degrees of freedom."""

    @property
    def verdict(self) -> str:
        """Where the interval lies: ``above 0``, ``below 0`` or ``includes 0``; ``too few to tell``."""
        if self.units < FEWEST_USERS:
            return TOO_FEW
        return "above 0" if self.low > 0 else "below 0" if self.high < 0 else "includes 0"


def mean_and_deviation(values_S: list[float]) -> tuple[float, float | None]:
    """Mean over seeds and the sample standard deviation (S - 1 below the line); None for one seed."""
    mean = math.fsum(values_S) / len(values_S)
    if len(values_S) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values_S) / (len(values_S) - 1))


def resampled_means(values_SNM: np.ndarray, resamples: int, seed: int, cluster_N: np.ndarray | None = None
                    ) -> np.ndarray:
    """Means over resampled users and seeds, fp64 [R, M]; all quantities share each resample.

    Args:
        values_SNM: one value per seed, user and quantity.
        resamples: R.
        seed: the same seed, S and N give the same resamples.
        cluster_N: of each user; None: every user is one.
    """
    seeds, _, quantities = values_SNM.shape
    rng = np.random.default_rng(seed)
    sums_CM, sizes_C = _sums(values_SNM, cluster_N)
    error_M = np.sqrt(_seed_variance(values_SNM))
    means = np.empty((resamples, quantities))
    chunk = max(1, _CHUNK_CELLS // len(sizes_C))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        found = means[start : start + rows]
        drawn_RC = _counts(rng, rows, len(sizes_C))
        found[:] = (drawn_RC @ sums_CM).astype(np.float64) / (drawn_RC @ sizes_C)[:, None]
        if seeds > 1:
            found += rng.normal(size=(rows, 1)) * error_M
    return means


def intervals(values_SNM: np.ndarray, resamples: int, confidence: float, seed: int,
              cluster_N: np.ndarray | None = None) -> list[Interval]:
    """The interval of each quantity's mean over seeds and users: percentiles of :func:`resampled_means`, widened where
    seeds are few. ``cluster_N``: of each user, drawn whole; None: every user is one."""
    tail = (1.0 - confidence) / 2.0
    mean_M = values_SNM.mean(axis=(0, 1), dtype=np.float64)
    means_RM = resampled_means(values_SNM, resamples, seed, cluster_N)
    error_M, freedom_M = _errors(values_SNM, cluster_N)
    units = values_SNM.shape[1] if cluster_N is None else len(np.unique(cluster_N))
    if len(values_SNM) > 1 or cluster_N is not None:
        own = 1.0 if cluster_N is None else math.sqrt(units / max(units - 1, 1))
        means_RM = mean_M + (means_RM - mean_M) * own * stdtrit(freedom_M, 1 - tail) / ndtri(1 - tail)
    low_M, high_M = np.quantile(means_RM, [tail, 1.0 - tail], axis=0)
    above_M = (means_RM > 0).mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):  # no error: any difference is certain
        p_M = np.where(mean_M == 0, 1.0, 2 * stdtr(freedom_M, -np.abs(mean_M) / error_M))
    return [Interval(float(mean), float(low), float(high), float(above), units, float(p))
            for mean, low, high, above, p in zip(mean_M, low_M, high_M, above_M, p_M, strict=True)]


def _seed_variance(values_SNM: np.ndarray) -> np.ndarray:
    """The seeds' part of a mean's variance, [M]; one seed tells none."""
    seeds = len(values_SNM)
    means_SM = values_SNM.mean(axis=1, dtype=np.float64)
    return means_SM.var(axis=0, ddof=1) / seeds if seeds > 1 else np.zeros(means_SM.shape[1])


def _sums(values_SNM: np.ndarray, cluster_N: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Of what is drawn, sums of the seeds' means, fp32 [C, M], and numbers of users, fp32 [C]."""
    values_NM = values_SNM.mean(axis=0)
    if cluster_N is None:
        return values_NM.astype(np.float32), np.ones(len(values_NM), np.float32)
    _, place_N, sizes_C = np.unique(cluster_N, return_inverse=True, return_counts=True)
    sums_CM = np.zeros((len(sizes_C), values_NM.shape[1]))
    np.add.at(sums_CM, place_N, values_NM)
    return sums_CM.astype(np.float32), sizes_C.astype(np.float32)


def _errors(values_SNM: np.ndarray, cluster_N: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The standard error of each quantity's mean over users and seeds, and its degrees of freedom, each [M]."""
    seeds, users = values_SNM.shape[:2]
    sums_CM, sizes_C = _sums(values_SNM - values_SNM.mean(axis=(0, 1)), cluster_N)
    of_seeds_M, of_users_M = _seed_variance(values_SNM), (sums_CM.astype(np.float64) ** 2).sum(axis=0) / users**2
    units = math.inf
    if cluster_N is not None:
        units = max(len(sizes_C), 2)
        of_users_M *= units / (units - 1)
    freedom = [degrees_of_freedom(*parts, seeds, units) for parts in zip(of_seeds_M, of_users_M, strict=True)]
    return np.sqrt(of_seeds_M + of_users_M), np.minimum(freedom, _MANY)


def degrees_of_freedom(of_seeds: float, of_users: float, seeds: int, units: float = math.inf) -> float:
    """Of the sum of two variances, which some seeds and some units tell (Satterthwaite, 1946); units: so many users or
    clusters, of users enough that their variance counts as known; inf: both are known."""
    total = of_seeds + of_users
    share = of_seeds / total if of_seeds > 0 else 0.0
    unknown = (share**2 / (seeds - 1) if share > 1e-6 else 0.0) + (1 - share) ** 2 / (units - 1)
    return 1 / unknown if unknown > 0 else math.inf


def _counts(rng: np.random.Generator, rows: int, units: int) -> np.ndarray:
    """How often each unit is drawn: fp32 [rows, C], each row sums to C."""
    drawn = rng.integers(0, units, size=(rows, units), dtype=np.int32)
    drawn += np.arange(rows, dtype=np.int32)[:, None] * units
    return np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(np.float32)
