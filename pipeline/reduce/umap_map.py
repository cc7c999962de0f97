"""Place new rows in a fitted UMAP embedding, each by itself.

The library's own ``transform`` scales its schedule by the largest weight of the batch, so a user's vector depends on
who else is asked for. Here a row depends on nothing but the stored rows: exact neighbours, weights as in McInnes et al.
(2018, alg. 3 without local connectivity), the weighted mean of the neighbours' places as the start, then the library's
optimiser with the stored rows held fixed. It serves embeddings of either backend.

Legend: N stored rows, B new rows, E encoder width, P reduced width, K neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.reduce.config import UMAPReducer
from pipeline.reduce.neighbors import nearest, unit_rows
from pipeline.reduce.umap_fit import FittedUMAP

_BISECTIONS = 64
_LEAST_BANDWIDTH = 1e-3
"""Bandwidths are at least this share of a row's mean distance."""
_DEFAULT_EPOCHS = 100
_LEARNING_RATE = 0.25
_NEGATIVE_SAMPLES = 5
_OPTIMISER_SEED = 42


@dataclass(frozen=True)
class UMAPMap:
    """An embedding and the vectors it was made from."""

    vectors_NE: np.ndarray
    """fp32; of length 1 where the metric is cosine."""
    embedding_NP: np.ndarray
    """fp32."""
    neighbors: int
    metric: str
    epochs: int
    """Optimisation epochs of a new row."""
    a: float
    b: float

    kind: ClassVar[str] = "umap"

    @classmethod
    def of(cls, config: UMAPReducer, vectors_NE: np.ndarray, fitted: FittedUMAP) -> UMAPMap:
        """From a fit. New rows get a third of the configured epochs, as in umap-learn, or 100."""
        vectors_NE = unit_rows(vectors_NE) if config.metric == "cosine" else vectors_NE
        epochs = config.epochs // 3 if config.epochs else _DEFAULT_EPOCHS
        return cls(vectors_NE, fitted.embedding_NP, config.neighbors, config.metric, epochs, *fitted.curve)

    @property
    def width(self) -> int:
        return int(self.embedding_NP.shape[1])

    def apply(self, vectors_BE: np.ndarray) -> np.ndarray:
        """fp32 [B, P]."""
        from umap.layouts import optimize_layout_euclidean

        if self.metric == "cosine":
            vectors_BE = unit_rows(vectors_BE.astype(np.float32))
        index_BK, distance_BK = nearest(vectors_BE, self.vectors_NE, self.neighbors, self.metric)
        weight_BK = memberships(distance_BK)
        place_BP = self._start(index_BK, weight_BK)
        kept_BK = weight_BK >= 1.0 / self.epochs
        head, column = np.nonzero(kept_BK)
        placed: np.ndarray = optimize_layout_euclidean(
            head_embedding=place_BP, tail_embedding=self.embedding_NP.astype(np.float32, copy=True),
            head=head.astype(np.int32), tail=index_BK[head, column].astype(np.int32), n_epochs=self.epochs,
            n_vertices=len(self.embedding_NP), epochs_per_sample=1.0 / weight_BK[kept_BK].astype(np.float64),
            a=self.a, b=self.b, rng_state=_random_state(), gamma=1.0, initial_alpha=_LEARNING_RATE,
            negative_sample_rate=_NEGATIVE_SAMPLES, parallel=False, move_other=False)
        return placed

    def _start(self, index_BK: np.ndarray, weight_BK: np.ndarray) -> np.ndarray:
        """The weighted mean of the neighbours' places; a row equal to a stored one starts at its place."""
        place_BP = np.zeros((len(index_BK), self.width))
        for k in range(self.neighbors):
            place_BP += weight_BK[:, k, None].astype(np.float64) * self.embedding_NP[index_BK[:, k]]
        place_BP /= weight_BK.sum(axis=1, dtype=np.float64)[:, None]
        same_B = weight_BK[:, 0] == 1.0
        place_BP[same_B] = self.embedding_NP[index_BK[same_B, 0]]
        return np.ascontiguousarray(place_BP, np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        """What is stored as arrays."""
        return {"vectors": self.vectors_NE, "embedding": self.embedding_NP}

    def settings(self) -> dict[str, Any]:
        """What is stored as JSON."""
        return {"neighbors": self.neighbors, "metric": self.metric, "epochs": self.epochs, "a": self.a, "b": self.b}

    @classmethod
    def restore(cls, tensors: dict[str, np.ndarray], settings: dict[str, Any]) -> UMAPMap:
        """From what :meth:`tensors` and :meth:`settings` gave."""
        return cls(tensors["vectors"], tensors["embedding"], **settings)


def memberships(distance_BK: np.ndarray) -> np.ndarray:
    """Weights exp(-d/σ) of each row's neighbours, fp32 [B, K]; σ makes those beyond the first sum to log2(K)."""
    distance = distance_BK.astype(np.float64)
    wanted = np.log2(distance.shape[1])
    low, high = np.zeros(len(distance)), np.full(len(distance), np.inf)
    sigma = np.ones(len(distance))
    for _ in range(_BISECTIONS):
        above = np.exp(-distance[:, 1:] / sigma[:, None]).sum(axis=1) > wanted
        high, low = np.where(above, sigma, high), np.where(above, low, sigma)
        sigma = np.where(np.isinf(high), sigma * 2.0, (low + high) / 2.0)
    sigma = np.maximum(sigma, _LEAST_BANDWIDTH * distance.mean(axis=1))
    weight: np.ndarray = np.exp(-distance / np.maximum(sigma, np.finfo(float).tiny)[:, None])
    return weight.astype(np.float32)


def _random_state() -> np.ndarray:
    """Fixed state of the optimiser's generator, which adds each row's own start to it: int64 [3]."""
    limits = np.iinfo(np.int32)
    return np.random.default_rng(_OPTIMISER_SEED).integers(limits.min + 1, limits.max - 1, 3, dtype=np.int64)
