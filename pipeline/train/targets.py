"""Teacher targets: the profile vectors of `reduce` as one dense array that every worker memory-maps.

Legend: N training rows, R profiled training users, A angles, P profile width, B batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from configs.errors import DataError
from pipeline.store.arrow import numbers, one_array, open_arrow, write_arrow
from pipeline.store.columns import ANGLE, USER_IDX, VECTOR
from pipeline.train.config import Arm
from pipeline.train.seeds import Stream, generator
from pipeline.work.ascending import places
from pipeline.work.shuffle import derangement, noise_like

if TYPE_CHECKING:
    from pipeline.train.collaborative import TrainingMatrix

PRESENT = "present"
"""fixed_size_list<uint8>[A]: 1 where the user has this profile."""
_FLAT_STD = 1e-6
"""A dimension with a smaller spread is constant: it is centred and not scaled."""
_COLUMNS = 8
"""Dimensions that are standardised at once, in double precision."""


@dataclass(frozen=True)
class TargetShape:
    """What the model must know of its teacher."""

    num_profiled: int
    num_angles: int
    profile_dim: int


def build_targets(owners: pa.Table, vectors: Iterable[pa.RecordBatch], users_N: np.ndarray, arm: Arm, seed: int,
                  standardize: bool, path: Path, train: TrainingMatrix | None = None) -> TargetShape:
    """Write the dense targets of one arm for the training users.

    Args:
        owners: USER_IDX, ANGLE of the `reduce` artifact's rows; users outside ``users_N`` are left out.
        vectors: VECTOR of the same rows, batch after batch.
        users_N: internal indices of the users that are trained on.
        arm: ``distilled``: own vectors; ``shuffled``: those of another profiled user, by a seeded permutation that
            leaves nobody in place (all angles move together); ``random``: noise of the same mean and covariance;
            ``collaborative``: the same users in the training matrix, with the vectors' overall spread.
        seed: of the controls.
        standardize: per angle and dimension, mean 0 and variance 1 over the profiled training users.
        path: Arrow IPC file to write.
        train: rows in the order of ``users_N``; for the collaborative arm alone.

    Raises:
        DataError: no training user has a vector, one stands twice or is not finite, or there is nobody to shuffle with.
    """
    users_R, vectors_RAP, present_RA = _dense(owners, vectors, users_N)
    if arm == "collaborative":
        assert train is not None
        _exchange(vectors_RAP, present_RA, train.users(vectors_RAP.shape[2])[np.searchsorted(users_N, users_R)])
    if standardize:
        _standardize(vectors_RAP, present_RA)
    if arm == "shuffled":
        if len(users_R) < 2:
            raise DataError(f"the shuffled arm needs at least 2 users with a profile, got {len(users_R)}")
        donor_R = derangement(len(users_R), generator(seed, Stream.SHUFFLED_TARGETS))
        vectors_RAP, present_RA = vectors_RAP[donor_R], present_RA[donor_R]
    elif arm == "random":
        rng = generator(seed, Stream.RANDOM_TARGETS)
        for angle in range(vectors_RAP.shape[1]):
            rows = np.flatnonzero(present_RA[:, angle])
            vectors_RAP[rows, angle] = noise_like(vectors_RAP[rows, angle], rng)
    num_angles, width = vectors_RAP.shape[1:]
    write_arrow(path, pa.table({
        USER_IDX: users_R,
        VECTOR: pa.FixedSizeListArray.from_arrays(pa.array(vectors_RAP.reshape(-1)), num_angles * width),
        PRESENT: pa.FixedSizeListArray.from_arrays(pa.array(present_RA.reshape(-1).view(np.uint8)), num_angles),
    }))
    return TargetShape(len(users_R), num_angles, width)


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
        return cls(numbers(vectors.values).reshape(len(users_R), num_angles, -1),
                   numbers(present.values).reshape(len(users_R), num_angles).view(np.bool_),
                   places(users_R, users_N))

    def mean_RP(self) -> np.ndarray:
        """fp32, each profiled user's own vectors averaged over the angles that there are."""
        weights_RA1 = self.present_RA[:, :, None] / self.present_RA.sum(1)[:, None, None]
        mean_RP: np.ndarray = (self.vectors_RAP * weights_RA1).sum(1).astype(np.float32)
        return mean_RP

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


def _dense(owners: pa.Table, vectors: Iterable[pa.RecordBatch], users_N: np.ndarray
           ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    owners_V = numbers(owners[USER_IDX])
    kept_V = np.isin(owners_V, users_N)
    if not kept_V.any():
        raise DataError("no training user has a profile vector; without them there is nothing to distil: "
                        "see `rejected.parquet` of the profile artifact, or train the plain arm alone")
    names, angle_V = _angles(owners[ANGLE], kept_V)
    users_R = np.unique(owners_V[kept_V])
    row_V = np.searchsorted(users_R, owners_V)
    present_RA = np.zeros((len(users_R), len(names)), np.bool_)
    present_RA[row_V[kept_V], angle_V[kept_V]] = True
    if present_RA.sum() != kept_V.sum():
        raise DataError("a user has two vectors for one angle in targets.parquet; rebuild the reduce artifact")
    vectors_RAP: np.ndarray | None = None
    broken: list[int] = []
    start = 0
    for batch in vectors:
        flat, width = batch[VECTOR], batch[VECTOR].type.list_size
        chosen = np.flatnonzero(kept_V[start : start + len(flat)])
        vectors_BP = numbers(flat.flatten()).reshape(len(flat), width)[chosen]
        broken += (start + chosen[~np.isfinite(vectors_BP).all(axis=1)]).tolist()
        if vectors_RAP is None:
            vectors_RAP = np.zeros((len(users_R), len(names), width), np.float32)
        vectors_RAP[row_V[start + chosen], angle_V[start + chosen]] = vectors_BP
        start += len(flat)
    if broken:
        angle = owners[ANGLE][broken[0]].as_py()
        raise DataError(f"the profile vector of user_idx {owners_V[broken[0]]} (angle {angle!r}) holds NaN or Inf; so "
                        f"do {len(broken) - 1} others; rebuild the reduce artifact")
    assert vectors_RAP is not None
    return users_R, vectors_RAP, present_RA


def _angles(column: pa.ChunkedArray, kept_V: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The angles of the rows that are kept, sorted, and each row's place among them (of the others: any)."""
    encoded = one_array(column).dictionary_encode()
    codes_V = numbers(encoded.indices)
    used = np.unique(codes_V[kept_V])
    order = used[np.argsort([encoded.dictionary[int(code)].as_py() for code in used])]
    place = np.zeros(len(encoded.dictionary), np.int64)
    place[order] = np.arange(len(order))
    return [encoded.dictionary[int(code)].as_py() for code in order], place[codes_V]


def _exchange(vectors_RAP: np.ndarray, present_RA: np.ndarray, given_RP: np.ndarray) -> None:
    """Put each user's given vector in the place of all their own, scaled to the same spread over users."""
    for angle in range(vectors_RAP.shape[1]):
        rows = np.flatnonzero(present_RA[:, angle])
        wanted, there = (np.sqrt(x.var(axis=0, dtype=np.float64).sum()) for x in (vectors_RAP[rows, angle],
                                                                                 given_RP[rows]))
        vectors_RAP[rows, angle] = given_RP[rows] * (wanted / there if there > 0 else 1.0)


def _standardize(vectors_RAP: np.ndarray, present_RA: np.ndarray) -> None:
    _, num_angles, width = vectors_RAP.shape
    for angle in range(num_angles):
        rows = np.flatnonzero(present_RA[:, angle])
        for start in range(0, width, _COLUMNS):
            columns = np.arange(start, min(start + _COLUMNS, width))
            real = vectors_RAP[rows[:, None], angle, columns].astype(np.float64)
            spread = real.std(axis=0)
            real -= real.mean(axis=0)
            real /= np.where(spread > _FLAT_STD, spread, 1.0)
            vectors_RAP[rows[:, None], angle, columns] = real
