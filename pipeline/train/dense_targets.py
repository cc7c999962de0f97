"""The dense targets of one arm, built block after block of users: only the collaborative control's vectors are ever in
memory together.

Legend: R profiled training users, V rows of the `reduce` artifact, K of them kept, A angles, P profile width, B users
of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from configs.errors import DataError
from pipeline.store.arrow import by_name, numbers
from pipeline.store.columns import ANGLE, USER_IDX, VECTOR
from pipeline.store.tensors import file_writer
from pipeline.train.config import Arm
from pipeline.train.seeds import Stream, generator
from pipeline.train.targets import PRESENT, ROW, USERS, VECTORS, TargetShape
from pipeline.work.ascending import held
from pipeline.work.shuffle import derangement, spectrum

if TYPE_CHECKING:
    from pipeline.train.collaborative import TrainingMatrix

Vectors = Callable[[], Iterable[pa.RecordBatch]]
"""VECTOR of all rows, batch after batch; each call begins anew."""
_FLAT_STD = 1e-6
"""A dimension with a smaller spread is constant: it is centred and not scaled."""
_BLOCK_BYTES = 2**24
"""Of a block's vectors; beside them stand a few arrays of twice the size."""


def build_targets(owners: pa.Table, vectors: Vectors, users_N: np.ndarray, arm: Arm, seed: int, standardize: bool,
                  path: Path, train: TrainingMatrix | None = None) -> TargetShape:
    """Write the dense targets of one arm for the training users.

    Args:
        owners: USER_IDX, ANGLE of the `reduce` artifact's rows, in the order of the users; users outside ``users_N``
            are left out.
        vectors: of the same rows.
        users_N: internal indices of the users that are trained on, ascending.
        arm: ``distilled``: own vectors; ``shuffled``: those of another profiled user, by a seeded permutation that
            leaves nobody in place (all angles move together); ``random``: noise of the same mean and covariance;
            ``collaborative``: the same users in the training matrix, with the vectors' overall spread.
        seed: of the controls.
        standardize: per angle and dimension, mean 0 and variance 1 over the profiled training users.
        path: safetensors file to write.
        train: rows in the order of ``users_N``; for the collaborative arm alone.

    Raises:
        DataError: no training user has a vector, one stands twice or is not finite, or there is nobody to shuffle with.
    """
    dense = _own(owners, vectors, users_N)
    row_R = np.arange(len(dense.users_R))
    if arm == "collaborative":
        assert train is not None
        dense = _exchanged(dense, train.users(dense.width)[np.searchsorted(users_N, dense.users_R)])
    if standardize:
        dense = _standardized(dense)
    if arm == "shuffled":
        if len(row_R) < 2:
            raise DataError(f"the shuffled arm needs at least 2 users with a profile, got {len(row_R)}")
        row_R = derangement(len(row_R), generator(seed, Stream.SHUFFLED_TARGETS))
    elif arm == "random":
        dense = _noise(dense, seed)
    num_users, num_angles = dense.present_RA.shape
    with file_writer(path, {USERS: (np.int64, (num_users,)), ROW: (np.int64, (num_users,)),
                            VECTORS: (np.float32, (num_users, num_angles, dense.width)),
                            PRESENT: (np.uint8, (num_users, num_angles))}) as write:
        write(dense.users_R)
        write(row_R)
        for _, block_BAP in dense.blocks():
            write(block_BAP)
        write(dense.present_RA.view(np.uint8))
    return TargetShape(num_users, num_angles, dense.width)


Blocks = Iterator[tuple[slice, np.ndarray]]
"""The users of each block, and their vectors fp32 [B, A, P]; zeros where there is none."""


@dataclass(frozen=True)
class _Dense:
    """Vectors of the profiled training users, in order; each call of ``blocks`` passes over all of them."""

    users_R: np.ndarray
    present_RA: np.ndarray
    width: int
    blocks: Callable[[], Blocks]

    def slices(self) -> Iterator[slice]:
        """The users of each block."""
        return _slices(self.present_RA, self.width)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of each angle and dimension over the users that have it, fp64 [A, P]."""
        counts_A1 = np.maximum(self.present_RA.sum(axis=0), 1)[:, None]
        mean_AP, variance_AP = (np.zeros((self.present_RA.shape[1], self.width)) for _ in range(2))
        for _, block_BAP in self.blocks():
            mean_AP += block_BAP.sum(axis=0, dtype=np.float64)
        mean_AP /= counts_A1
        for users, block_BAP in self.blocks():
            variance_AP += (self.centred(users, block_BAP, mean_AP) ** 2).sum(axis=0)
        return mean_AP, variance_AP / counts_A1

    def centred(self, users: slice, block_BAP: np.ndarray, mean_AP: np.ndarray) -> np.ndarray:
        """fp64; zeros stay where there is no vector."""
        centred_BAP: np.ndarray = (block_BAP - mean_AP) * self.present_RA[users, :, None]
        return centred_BAP


def _own(owners: pa.Table, vectors: Vectors, users_N: np.ndarray) -> _Dense:
    owners_V = numbers(owners[USER_IDX])
    if (owners_V[1:] < owners_V[:-1]).any():
        raise DataError("the rows of targets.parquet are not in the order of the users; rebuild the reduce artifact")
    kept_V = held(users_N, owners_V)
    if not kept_V.any():
        raise DataError("no training user has a profile vector; without them there is nothing to distil: "
                        "see `rejected.parquet` of the profile artifact, or train the plain arm alone")
    users_K, of_all_K = owners_V[kept_V], by_name(owners[ANGLE])[1][kept_V]
    angles, angle_K = np.unique(of_all_K, return_inverse=True)
    first_K = np.append(True, users_K[1:] != users_K[:-1])
    users_R, row_K = users_K[first_K], np.cumsum(first_K) - 1
    present_RA = np.zeros((len(users_R), len(angles)), np.bool_)
    present_RA[row_K, angle_K] = True
    if present_RA.sum() != len(users_K):
        raise DataError("a user has two vectors for one angle in targets.parquet; rebuild the reduce artifact")
    width = _width(owners, vectors, kept_V)

    def blocks() -> Blocks:
        take = _taking(_kept(vectors(), kept_V))
        for users in _slices(present_RA, width):
            rows = slice(*np.searchsorted(row_K, [users.start, users.stop]))
            block_BAP = np.zeros((users.stop - users.start, len(angles), width), np.float32)
            block_BAP[row_K[rows] - users.start, angle_K[rows]] = take(rows.stop - rows.start)
            yield users, block_BAP

    return _Dense(users_R, present_RA, width, blocks)


def _exchanged(dense: _Dense, given_RP: np.ndarray) -> _Dense:
    """Each user's given vector in the place of all their own, scaled to the same spread over users."""

    def given() -> Blocks:
        for users in dense.slices():
            yield users, given_RP[users, None, :] * dense.present_RA[users, :, None]

    other = replace(dense, blocks=given)
    wanted_A, there_A = (np.sqrt(each.moments()[1].sum(axis=1)) for each in (dense, other))
    scale_A1 = np.divide(wanted_A, there_A, out=np.ones_like(wanted_A), where=there_A > 0)[:, None]

    def blocks() -> Blocks:
        for users, block_BAP in given():
            yield users, (block_BAP * scale_A1).astype(np.float32)

    return replace(dense, blocks=blocks)


def _standardized(dense: _Dense) -> _Dense:
    mean_AP, variance_AP = dense.moments()
    spread_AP = np.sqrt(variance_AP)
    spread_AP[spread_AP <= _FLAT_STD] = 1.0

    def blocks() -> Blocks:
        for users, block_BAP in dense.blocks():
            yield users, (dense.centred(users, block_BAP, mean_AP) / spread_AP).astype(np.float32)

    return replace(dense, blocks=blocks)


def _noise(dense: _Dense, seed: int) -> _Dense:
    """Gaussian noise of each angle's mean and covariance; the first angle's is that of an arm with one angle."""
    mean_AP, _ = dense.moments()
    num_angles = len(mean_AP)
    covariance_APP = np.zeros((num_angles, dense.width, dense.width))
    for users, block_BAP in dense.blocks():
        centred_ABP = dense.centred(users, block_BAP, mean_AP).transpose(1, 0, 2)
        covariance_APP += centred_ABP.transpose(0, 2, 1) @ centred_ABP
    counts_A = np.maximum(dense.present_RA.sum(axis=0), 1)
    factors = [spectrum(covariance_APP[angle] / counts_A[angle]) for angle in range(num_angles)]

    def blocks() -> Blocks:
        rngs = [generator(seed, Stream.RANDOM_TARGETS, *([angle] if angle else [])) for angle in range(num_angles)]
        for users in dense.slices():
            block_BAP = np.zeros((users.stop - users.start, num_angles, dense.width), np.float32)
            for angle, (rng, factor_PP) in enumerate(zip(rngs, factors, strict=True)):
                rows = np.flatnonzero(dense.present_RA[users, angle])
                drawn_BP = rng.standard_normal((len(rows), dense.width), dtype=np.float32)
                block_BAP[rows, angle] = drawn_BP @ factor_PP + mean_AP[angle].astype(np.float32)
            yield users, block_BAP

    return replace(dense, blocks=blocks)


def _slices(present_RA: np.ndarray, width: int) -> Iterator[slice]:
    num_users, num_angles = present_RA.shape
    step = max(1, _BLOCK_BYTES // (num_angles * width * np.dtype(np.float32).itemsize))
    return (slice(start, min(start + step, num_users)) for start in range(0, num_users, step))


def _width(owners: pa.Table, vectors: Vectors, kept_V: np.ndarray) -> int:
    """P, after a look at every kept vector.

    Raises:
        DataError: one holds NaN or Inf.
    """
    start, width, broken = 0, 0, list[int]()
    for batch in vectors():
        width = batch[VECTOR].type.list_size
        finite_B = np.isfinite(_matrix(batch)).all(axis=1)
        broken += (start + np.flatnonzero(~finite_B & kept_V[start : start + len(batch)])).tolist()
        start += len(batch)
    if broken:
        user, angle = (owners[name][broken[0]].as_py() for name in (USER_IDX, ANGLE))
        raise DataError(f"the profile vector of user_idx {user} (angle {angle!r}) holds NaN or Inf; so "
                        f"do {len(broken) - 1} others; rebuild the reduce artifact")
    return width


def _matrix(batch: pa.RecordBatch) -> np.ndarray:
    column = batch[VECTOR]
    return numbers(column.flatten()).reshape(len(column), column.type.list_size)


def _kept(batches: Iterable[pa.RecordBatch], kept_V: np.ndarray) -> Iterator[np.ndarray]:
    start = 0
    for batch in batches:
        yield _matrix(batch)[kept_V[start : start + len(batch)]]
        start += len(batch)


def _taking(parts: Iterator[np.ndarray]) -> Callable[[int], np.ndarray]:
    """A function that gives the next so many rows."""
    rest: list[np.ndarray] = []

    def take(count: int) -> np.ndarray:
        while sum(map(len, rest)) < count:
            rest.append(next(parts))
        joined = np.concatenate(rest)
        rest[:] = [joined[count:]]
        return joined[:count]

    return take
