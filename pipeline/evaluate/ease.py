"""EASE: a linear item-to-item model in closed form (Steck, WWW'19), with recency-weighted histories.

Legend: B users, V catalogue, C items of a chunk. Column i - 1 of a matrix is item i.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from models.sequences import Sequences
from pipeline.evaluate.config import EASEConfig
from pipeline.evaluate.histories import weighted_histories


@dataclass(frozen=True)
class EASE:
    """Scores x·W of a weighted history x."""

    weights_VV: np.ndarray
    """float32, zero diagonal; row = history item, column = scored item."""
    decay: float
    """Weight exp(-decay · steps back) of a history item."""

    @property
    def num_items(self) -> int:
        return len(self.weights_VV)

    def states(self, histories: Sequences, indices: np.ndarray) -> sparse.csr_matrix:
        """Weighted histories [B, V]."""
        return weighted_histories(histories, indices, self.decay, self.num_items)

    def scores(self, states: sparse.csr_matrix, start: int, stop: int) -> Tensor:
        used, columns = np.unique(states.indices, return_inverse=True)
        history_BU = sparse.csr_matrix((states.data, columns, states.indptr), shape=(states.shape[0], len(used)))
        return torch.from_numpy(history_BU @ self.weights_VV[used, start - 1 : stop - 1])


def fit_ease(config: EASEConfig, train: Sequences, num_items: int) -> EASE:
    """W = I - P / diag(P) with P = (XᵀX + λI)⁻¹, in float32: λ bounds the condition number.

    Peak memory: about three V × V float32 matrices.
    """
    users_by_items = weighted_histories(train, np.arange(len(train)), config.train_decay, num_items)
    gram_VV = torch.from_numpy((users_by_items.T @ users_by_items).toarray())
    gram_VV.diagonal().add_(config.l2)
    # LAPACK answers column by column; the matrix is symmetric, so its transpose is itself, row by row.
    precision_VV = torch.cholesky_inverse(torch.linalg.cholesky(gram_VV)).mT.contiguous()
    del gram_VV
    weights_VV = precision_VV.div_(-precision_VV.diagonal().clone())
    weights_VV.diagonal().zero_()
    return EASE(weights_VV.numpy(), config.recency_decay)
