"""Teacher targets: the profile vectors of `reduce` as one dense array that every worker memory-maps.

Legend: N training rows, R profiled training users, A angles, P profile width, B batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.store.tensors import map_file
from pipeline.work.ascending import places

USERS, ROW, VECTORS, PRESENT = "users", "row", "vectors", "present"
"""Tensors of the file: internal indices of the profiled users, ascending int64 [R]; the row of each one's vectors,
int64 [R], another user's where they are shuffled; fp32 [R, A, P]; uint8 [R, A], 1 where the row has this angle."""

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class TargetShape:
    """What the model must know of its teacher."""

    num_profiled: int
    num_angles: int
    profile_dim: int


@dataclass(frozen=True)
class Targets:
    """Dense targets on disk, addressed by training row."""

    vectors_RAP: np.ndarray
    present_RA: np.ndarray
    row_N: np.ndarray
    """int64, row of ``vectors_RAP`` of each training row; -1: no profile."""

    @classmethod
    def open(cls, path: Path, users_N: np.ndarray | None = None) -> Targets:
        """Memory-map the file of :func:`pipeline.train.dense_targets.build_targets`.

        Args:
            users_N: of the training rows; None: the profiled users, in their order.
        """
        mapped = map_file(path)
        row_N = mapped[ROW]
        if users_N is not None:
            place_N = places(mapped[USERS], users_N)
            row_N = np.where(place_N >= 0, row_N[place_N], -1)
        return cls(mapped[VECTORS], mapped[PRESENT].view(np.bool_), row_N)

    def mean_NP(self) -> np.ndarray:
        """fp32, the vectors of each row, which must have a profile, averaged over the angles that there are."""
        mean_NP = np.empty((len(self.row_N), self.vectors_RAP.shape[2]), np.float32)
        for start in range(0, len(mean_NP), _ROWS_AT_ONCE):
            rows = self.row_N[start : start + _ROWS_AT_ONCE]
            weights_BA1 = self.present_RA[rows, :, None] / self.present_RA[rows].sum(1)[:, None, None]
            mean_NP[start : start + _ROWS_AT_ONCE] = (self.vectors_RAP[rows] * weights_BA1).sum(1)
        return mean_NP

    def gather(self, rows_B: np.ndarray) -> tuple[Tensor, Tensor]:
        """fp32 targets [B, A, P] and bool presence [B, A] of training rows; zeros where there is no profile."""
        place_B = self.row_N[rows_B]
        known_B = place_B >= 0
        _, num_angles, width = self.vectors_RAP.shape
        vectors_BAP = np.zeros((len(rows_B), num_angles, width), np.float32)
        present_BA = np.zeros((len(rows_B), num_angles), np.bool_)
        vectors_BAP[known_B] = self.vectors_RAP[place_B[known_B]]
        present_BA[known_B] = self.present_RA[place_B[known_B]]
        return torch.from_numpy(vectors_BAP), torch.from_numpy(present_BA)


def profiled_users(path: Path) -> np.ndarray:
    """Internal indices of the users with targets, ascending int64 [R], in memory."""
    return np.array(map_file(path)[USERS])
