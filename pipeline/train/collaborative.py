"""What the interactions alone know, in the place of a teacher's vectors: a truncated SVD of the training matrix.

Legend: N training rows, V items 1…n, P width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.train.data import TrainingRows

_POWER_ITERATIONS, _SPARE = 7, 64
"""Of the randomised SVD (Halko et al., 2011). Directions beyond the width keep the wanted ones apart from the rest
where singular values lie close."""


@dataclass(frozen=True)
class TrainingMatrix:
    """Which user has which item in the training part: X, N × V, of zeros and ones."""

    rows: TrainingRows
    num_items: int
    seed: int
    """Of the decomposition's random start."""

    def users(self, width: int) -> np.ndarray:
        """Users by the leading directions: rows of U·Σ with X ≈ U·Σ·Wᵀ, fp32 [N, P]; zeros beyond the rank."""
        left_NK, values_K, _ = self._factors(width)
        return _padded(left_NK * values_K, width)

    def items(self, width: int) -> np.ndarray:
        """Items likewise: rows of W·Σ, fp32 [V, P]; an item that nobody has lies at zero."""
        _, values_K, right_KV = self._factors(width)
        return _padded(right_KV.T * values_K, width)

    def _factors(self, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        # Here, not above: workers load this module and never come so far.
        from sklearn.utils.extmath import randomized_svd

        from pipeline.evaluate.histories import weighted_histories

        matrix_NV = weighted_histories(self.rows.sequences, self.rows.index_N, 0.0, self.num_items)
        left, values, right = randomized_svd(
            matrix_NV, min(width, *matrix_NV.shape), n_oversamples=_SPARE, n_iter=_POWER_ITERATIONS,
            random_state=self.seed)
        return left, values, right


def _padded(rows_MK: np.ndarray, width: int) -> np.ndarray:
    return np.pad(rows_MK, ((0, 0), (0, width - rows_MK.shape[1]))).astype(np.float32)
