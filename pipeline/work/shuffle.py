"""What stands in the place of what is known: the exchange behind shuffled controls, the noise behind random ones."""

from __future__ import annotations

import numpy as np

_CHUNK_ROWS = 8192


def derangement(count: int, rng: np.random.Generator) -> np.ndarray:
    """A permutation int64 [count] in which nobody keeps their place: one random cycle through all.

    With fewer than two there is nobody to exchange with, and everybody keeps theirs.
    """
    cycle = rng.permutation(count)
    donor = np.empty(count, np.int64)
    donor[cycle] = np.roll(cycle, -1)
    return donor


def noise_like(rows_NE: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise fp32 [N, E] of the rows' mean and covariance: their scale and spectrum, and nothing else."""
    mean_E = rows_NE.mean(axis=0, dtype=np.float64)
    covariance_EE = np.zeros((rows_NE.shape[1],) * 2)
    for start in range(0, len(rows_NE), _CHUNK_ROWS):
        centred = rows_NE[start : start + _CHUNK_ROWS] - mean_E
        covariance_EE += centred.T @ centred
    factor_EE = spectrum(covariance_EE / len(rows_NE))
    noise_NE: np.ndarray = rng.standard_normal((len(rows_NE), len(factor_EE)), dtype=np.float32) @ factor_EE
    return noise_NE + mean_E.astype(np.float32)


def spectrum(covariance_EE: np.ndarray) -> np.ndarray:
    """fp32 [E, E]: independent standard normal rows times it have this covariance."""
    variances_E, directions_EE = np.linalg.eigh(covariance_EE)
    factor_EE: np.ndarray = (directions_EE * np.sqrt(variances_E.clip(min=0))).T.astype(np.float32)
    return factor_EE
