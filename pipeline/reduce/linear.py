"""Linear maps of vectors: principal components and whitening, with signs and order that depend on the data alone.

Legend: N rows, E width in, P width out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

_CHUNK_ROWS = 8192
_FLAT = 1e-4
"""Whitening: directions with less than this share of the largest variance are noise; scaled as if they had it."""


@dataclass(frozen=True)
class LinearMap:
    """``(x - mean) @ matrix``, computed in fp64, so that a row's result does not depend on its batch."""

    mean_E: np.ndarray
    """fp64."""
    matrix_EP: np.ndarray
    """fp64."""

    kind: ClassVar[str] = "linear"

    @property
    def width(self) -> int:
        return int(self.matrix_EP.shape[1])

    def apply(self, vectors_NE: np.ndarray) -> np.ndarray:
        """fp32 [N, P]."""
        projected: np.ndarray = (vectors_NE.astype(np.float64) - self.mean_E) @ self.matrix_EP
        return projected.astype(np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        """What is stored."""
        return {"mean": self.mean_E, "matrix": self.matrix_EP}

    def settings(self) -> dict[str, Any]:
        """Nothing beside the tensors."""
        return {}

    @classmethod
    def restore(cls, tensors: dict[str, np.ndarray], settings: dict[str, Any]) -> LinearMap:
        """From what :meth:`tensors` gave."""
        return cls(tensors["mean"], tensors["matrix"], **settings)


def moments(vectors_NE: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [E] and covariance [E, E] (divided by N), fp64, in one pass over chunks after the mean."""
    mean_E = vectors_NE.mean(axis=0, dtype=np.float64)
    covariance_EE = np.zeros((vectors_NE.shape[1],) * 2)
    for start in range(0, len(vectors_NE), _CHUNK_ROWS):
        centred = vectors_NE[start : start + _CHUNK_ROWS].astype(np.float64) - mean_E
        covariance_EE += centred.T @ centred
    return mean_E, covariance_EE / len(vectors_NE)


def principal_components(vectors_NE: np.ndarray, components: int) -> tuple[LinearMap, float]:
    """The first components, and the share of the variance they explain.

    Each component's largest loading is positive.
    """
    mean_E, covariance_EE = moments(vectors_NE)
    variances, directions = np.linalg.eigh(covariance_EE)
    chosen_EP = directions[:, ::-1][:, :components]
    largest = np.abs(chosen_EP).argmax(axis=0)
    chosen_EP = chosen_EP * np.where(chosen_EP[largest, np.arange(components)] < 0, -1.0, 1.0)
    explained = float(variances[::-1][:components].sum() / max(float(variances.sum()), np.finfo(float).tiny))
    return LinearMap(mean_E, np.ascontiguousarray(chosen_EP)), min(explained, 1.0)


def whitening(vectors_NP: np.ndarray) -> LinearMap:
    """ZCA: decorrelated, unit variance, as near to the given axes as that allows; unlike PCA whitening it has no signs
    to choose.
    """
    mean_P, covariance_PP = moments(vectors_NP)
    variances, directions = np.linalg.eigh(covariance_PP)
    floor = max(float(variances[-1]) * _FLAT, np.finfo(float).tiny)
    scale = 1.0 / np.sqrt(np.maximum(variances, floor))
    return LinearMap(mean_P, (directions * scale) @ directions.T)
