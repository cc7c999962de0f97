"""What a reduction keeps of the encoder's neighbourhoods, and how its dimensions are used.

Legend: S sampled rows, E encoder width, P reduced width, K neighbours.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

_NEIGHBORS = 10


def neighborhoods(vectors_SE: np.ndarray, targets_SP: np.ndarray, metric: Literal["cosine", "euclidean"] = "cosine"
                  ) -> dict[str, Any]:
    """Trustworthiness (Venna & Kaski, 2001) and the share of the K nearest rows that stay among the K nearest.

    Both are taken within the sample, ``metric`` in the encoder's space, Euclidean in the reduced one. K is 10, or
    less in a small sample.
    """
    rows = len(vectors_SE)
    k = min(_NEIGHBORS, (rows - 1) // 2)
    if k < 1:
        return {"rows": rows, "neighbors": k, "trustworthiness": None, "neighbor_overlap": None}
    from sklearn.manifold import trustworthiness
    from sklearn.metrics import pairwise_distances

    trust = trustworthiness(vectors_SE, targets_SP, n_neighbors=k, metric=metric)
    before, after = pairwise_distances(vectors_SE, metric=metric), pairwise_distances(targets_SP)
    return {"rows": rows, "neighbors": k, "trustworthiness": float(trust),
            "neighbor_overlap": float(overlap(_closest(before, k), _closest(after, k)).mean())}


def overlap(first_SK: np.ndarray, second_SK: np.ndarray) -> np.ndarray:
    """Share of each row's K distinct entries that stand in both lists: [S]."""
    both = np.sort(np.concatenate([first_SK, second_SK], axis=1), axis=1)
    shared: np.ndarray = (both[:, 1:] == both[:, :-1]).sum(axis=1) / first_SK.shape[1]
    return shared


def _closest(distance_SS: np.ndarray, k: int) -> np.ndarray:
    np.fill_diagonal(distance_SS, np.inf)
    return np.argsort(distance_SS, axis=1, kind="stable")[:, :k]


class Spread:
    """Variances of rows that come in parts."""

    def __init__(self, width: int) -> None:
        self._rows = 0
        self._sum_P = np.zeros(width)
        self._square_PP = np.zeros((width, width))

    def add(self, targets_NP: np.ndarray) -> None:
        """Count some rows in."""
        rows = targets_NP.astype(np.float64)
        self._rows += len(rows)
        self._sum_P += rows.sum(axis=0)
        self._square_PP += rows.T @ rows

    def summary(self) -> dict[str, Any]:
        """Variance per dimension, and the effective number of dimensions (Σλ)² / Σλ² of the covariance."""
        mean_P = self._sum_P / self._rows
        covariance_PP = self._square_PP / self._rows - np.outer(mean_P, mean_P)
        variance_P = np.maximum(np.diag(covariance_PP), 0.0)
        squared = float(np.square(covariance_PP).sum())
        return {"variance": [float(v) for v in variance_P], "mean_variance": float(variance_P.mean()),
                "effective_dimensions": float(variance_P.sum() ** 2 / squared) if squared > 0 else 0.0}
