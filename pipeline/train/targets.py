"""Teacher targets: the profile vectors of `reduce` as one dense array that every worker memory-maps.

Legend: N training rows, R profiled training users, A angles, P profile width, B batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from configs.errors import DataError
from pipeline.arrow import numbers, open_arrow, write_arrow
from pipeline.columns import ANGLE, USER_IDX, VECTOR
from pipeline.train.config import Arm
from pipeline.train.seeds import Stream, generator

PRESENT = "present"
"""fixed_size_list<uint8>[A]: 1 where the user has this profile."""
_FLAT_STD = 1e-6
"""A dimension with a smaller spread is constant: it is centred and not scaled."""


@dataclass(frozen=True)
class TargetShape:
    """What the model must know of its teacher."""

    num_profiled: int
    num_angles: int
    profile_dim: int


def build_targets(table: pa.Table, users_N: np.ndarray, arm: Arm, seed: int, standardize: bool, path: Path
                  ) -> TargetShape:
    """Write the dense targets of one arm for the training users.

    Args:
        table: USER_IDX, ANGLE, VECTOR of the `reduce` artifact; users outside ``users_N`` are left out.
        users_N: internal indices of the users that are trained on.
        arm: ``distilled``: own vectors; ``shuffled``: those of another profiled user, by a seeded permutation that
            leaves nobody in place (all angles move together); ``random``: white noise of the same shape.
        seed: of the controls.
        standardize: per angle and dimension, mean 0 and variance 1 over the profiled training users.
        path: Arrow IPC file to write.

    Raises:
        DataError: no training user has a vector, one stands twice or is not finite, or there is nobody to shuffle with.
    """
    users_R, vectors_RAP, present_RA = _dense(table, users_N)
    if standardize:
        _standardize(vectors_RAP, present_RA)
    if arm == "shuffled":
        donor_R = derangement(len(users_R), seed)
        vectors_RAP, present_RA = vectors_RAP[donor_R], present_RA[donor_R]
    elif arm == "random":
        generator(seed, Stream.RANDOM_TARGETS).standard_normal(dtype=np.float32, out=vectors_RAP)
        vectors_RAP[~present_RA] = 0.0
    num_angles, width = vectors_RAP.shape[1:]
    write_arrow(path, pa.table({
        USER_IDX: users_R,
        VECTOR: pa.FixedSizeListArray.from_arrays(pa.array(vectors_RAP.reshape(-1)), num_angles * width),
        PRESENT: pa.FixedSizeListArray.from_arrays(pa.array(present_RA.reshape(-1).view(np.uint8)), num_angles),
    }))
    return TargetShape(len(users_R), num_angles, width)


def derangement(count: int, seed: int) -> np.ndarray:
    """A seeded permutation int64 [count] in which nobody keeps their place: one random cycle through all.

    Raises:
        DataError: fewer than two.
    """
    if count < 2:
        raise DataError(f"the shuffled arm needs at least 2 users with a profile, got {count}")
    cycle = generator(seed, Stream.SHUFFLED_TARGETS).permutation(count)
    donor = np.empty(count, np.int64)
    donor[cycle] = np.roll(cycle, -1)
    return donor


@dataclass(frozen=True)
class Targets:
    """Dense targets on disk, addressed by training row."""

    vectors_RAP: np.ndarray
    present_RA: np.ndarray
    row_N: np.ndarray
    """int64, row of ``vectors_RAP`` of each training row; -1: no profile."""

    @classmethod
    def open(cls, path: Path, users_N: np.ndarray) -> Targets:
        """Memory-map the file of :func:`build_targets` for these training rows."""
        table = open_arrow(path)
        users_R = numbers(table[USER_IDX])
        vectors, present = table[VECTOR].chunk(0), table[PRESENT].chunk(0)
        num_angles = present.type.list_size
        place_N = np.minimum(np.searchsorted(users_R, users_N), len(users_R) - 1)
        return cls(numbers(vectors.values).reshape(len(users_R), num_angles, -1),
                   numbers(present.values).reshape(len(users_R), num_angles).view(np.bool_),
                   np.where(users_R[place_N] == users_N, place_N, -1))

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


def _dense(table: pa.Table, users_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = table.filter(pa.array(np.isin(table[USER_IDX].to_numpy(), users_N))).combine_chunks()
    if not len(table):
        raise DataError("no training user has a profile vector; without them there is nothing to distil: "
                        "see `rejected.parquet` of the profile artifact, or train the plain arm alone")
    owners = table[USER_IDX].to_numpy()
    angles = table[ANGLE].to_pylist()
    names = sorted(set(angles))
    angle_of = {name: i for i, name in enumerate(names)}
    angle_index = np.fromiter((angle_of[a] for a in angles), np.int64, len(angles))
    flat = table[VECTOR].chunk(0)
    vectors = flat.flatten().to_numpy().reshape(len(table), flat.type.list_size)
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise DataError(f"the profile vector of user_idx {owners[broken[0]]} (angle {angles[broken[0]]!r}) holds NaN "
                        f"or Inf; so do {len(broken) - 1} others; rebuild the reduce artifact")
    users_R, row = np.unique(owners, return_inverse=True)
    present_RA = np.zeros((len(users_R), len(names)), np.bool_)
    present_RA[row, angle_index] = True
    if present_RA.sum() != len(table):
        raise DataError("a user has two vectors for one angle in targets.parquet; rebuild the reduce artifact")
    vectors_RAP = np.zeros((len(users_R), len(names), vectors.shape[1]), np.float32)
    vectors_RAP[row, angle_index] = vectors
    return users_R, vectors_RAP, present_RA


def _standardize(vectors_RAP: np.ndarray, present_RA: np.ndarray) -> None:
    for angle in range(vectors_RAP.shape[1]):
        real = vectors_RAP[present_RA[:, angle], angle].astype(np.float64)
        spread = real.std(axis=0)
        real -= real.mean(axis=0)
        real /= np.where(spread > _FLAT_STD, spread, 1.0)
        vectors_RAP[present_RA[:, angle], angle] = real
