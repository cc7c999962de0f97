"""Teacher targets: where in memory-mapped vectors each training row's stand, and how they are standardised.

Legend: N training rows, R profiled training users, A angles, P profile width, V rows of the vectors' file, B batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.store.columns import VECTOR
from pipeline.store.tensors import map_file
from pipeline.work.ascending import places

USERS, PLACES, MEAN, SPREAD = "users", "places", "mean", "spread"
"""Tensors of the targets' file: internal indices of the profiled users, ascending int64 [R]; the row of the vectors'
file that each one is drawn to, int64 [R, A], -1 where there is none; fp64 [A, P], which are taken off and divided by.
"""

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class TargetShape:
    """What the model must know of its teacher."""

    num_profiled: int
    num_angles: int
    profile_dim: int


@dataclass(frozen=True)
class Targets:
    """Vectors on disk, addressed by training row. None is copied: arms and seeds differ in places alone, but for the
    controls whose vectors are made."""

    users_R: np.ndarray
    """int64, the profiled training users, ascending."""
    place_RA: np.ndarray
    """int64, rows of ``vectors_VP``; -1: none."""
    vectors_VP: np.ndarray
    """fp32."""
    mean_AP: np.ndarray
    spread_AP: np.ndarray
    row_N: np.ndarray
    """Row of ``place_RA`` of each training row; -1: no profile."""

    @classmethod
    def open(cls, path: Path, vectors: Path, users_N: np.ndarray | None = None) -> Targets:
        """Memory-map the file of :func:`pipeline.train.dense_targets.build_targets` and that of the vectors.

        Args:
            users_N: of the training rows; None: the profiled users, in their order.
        """
        mapped = map_file(path)
        users_R = mapped[USERS]
        row_N = np.arange(len(users_R)) if users_N is None else places(users_R, users_N).astype(np.int32)
        return cls(users_R, mapped[PLACES], map_file(vectors)[VECTOR], mapped[MEAN], mapped[SPREAD], row_N)

    def mean_NP(self) -> np.ndarray:
        """fp32, the vectors of each row, which must have a profile, averaged over the angles that there are."""
        mean_NP = np.empty((len(self.row_N), self.vectors_VP.shape[1]), np.float32)
        for start in range(0, len(mean_NP), _ROWS_AT_ONCE):
            place_BA = self.place_RA[self.row_N[start : start + _ROWS_AT_ONCE]]
            present_BA = place_BA >= 0
            weights_BA1 = present_BA[..., None] / present_BA.sum(1)[:, None, None]
            mean_NP[start : start + _ROWS_AT_ONCE] = (self._vectors(place_BA) * weights_BA1).sum(1)
        return mean_NP

    def gather(self, rows_B: np.ndarray) -> tuple[Tensor, Tensor]:
        """fp32 targets [B, A, P] and bool presence [B, A] of training rows; zeros where there is no profile."""
        row_B = self.row_N[rows_B]
        place_BA = np.where(row_B[:, None] >= 0, self.place_RA[row_B], -1)
        return torch.from_numpy(self._vectors(place_BA)), torch.from_numpy(place_BA >= 0)

    def _vectors(self, place_BA: np.ndarray) -> np.ndarray:
        """fp32 [B, A, P]."""
        scaled_BAP = (self.vectors_VP[place_BA] - self.mean_AP) / self.spread_AP
        return np.where((place_BA >= 0)[..., None], scaled_BAP, 0).astype(np.float32)
