"""The targets of one arm: places in the vectors of `reduce`, which are not copied; the vectors of two controls are
made, block after block of users, and only the collaborative one's are ever in memory together.

Legend: R profiled training users, V rows of the `reduce` artifact, K of them kept, A angles, P profile width, B users
of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from configs.errors import DataError
from pipeline.store.columns import VECTOR
from pipeline.store.tensors import file_writer
from pipeline.store.vectors import VectorRows
from pipeline.train.config import Arm
from pipeline.train.seeds import Stream, generator
from pipeline.train.targets import MEAN, PLACES, SPREAD, USERS, TargetShape
from pipeline.work.ascending import held
from pipeline.work.shuffle import derangement, spectrum

if TYPE_CHECKING:
    from pipeline.train.collaborative import TrainingMatrix

MADE_ARMS = ("random", "collaborative")
"""Their vectors are not those of `reduce`."""
_FLAT_STD = 1e-6
"""A dimension with a smaller spread is constant: it is centred and not scaled."""
_BLOCK_BYTES = 2**24
"""Of a block's vectors; beside them stand a few arrays of twice the size."""


def build_targets(reduced: VectorRows, names: Sequence[str], users_N: np.ndarray, arm: Arm, seed: int,
                  standardize: bool, path: Path, made: Path, train: TrainingMatrix | None = None) -> TargetShape:
    """Write the targets of one arm for the training users.

    Args:
        reduced: the `reduce` artifact's rows; users outside ``users_N`` are left out.
        names: of its angles.
        users_N: internal indices of the users that are trained on, ascending.
        arm: ``distilled``: own vectors; ``shuffled``: those of another profiled user, by a seeded permutation that
            leaves nobody in place (all angles move together); ``random``: noise of the same mean and covariance;
            ``collaborative``: the same users in the training matrix, with the vectors' overall spread.
        seed: of the controls.
        standardize: per angle and dimension, mean 0 and variance 1 over the profiled training users.
        path: safetensors file to write: whose vector stands where.
        made: safetensors file to write for ``MADE_ARMS``: their vectors.
        train: rows in the order of ``users_N``; for the collaborative arm alone.

    Raises:
        DataError: no training user has a vector, one stands twice or is not finite, or there is nobody to shuffle with.
    """
    dense = _own(reduced, names, users_N)
    if arm == "collaborative":
        assert train is not None
        dense = _exchanged(dense, train.users(dense.width)[np.searchsorted(users_N, dense.users_R)])
    scale = dense.scale() if standardize else dense.no_scale()
    if arm == "shuffled":
        if len(dense.users_R) < 2:
            raise DataError(f"the shuffled arm needs at least 2 users with a profile, got {len(dense.users_R)}")
        donors_R = derangement(len(dense.users_R), generator(seed, Stream.SHUFFLED_TARGETS))
        dense = replace(dense, place_RA=dense.place_RA[donors_R])
    elif arm == "random":
        dense, scale = _noise(_standardized(dense, *scale), seed), dense.no_scale()
    if arm in MADE_ARMS:
        dense = _written(dense, made)
    _write_places(dense, scale, path)
    num_users, num_angles = dense.place_RA.shape
    return TargetShape(num_users, num_angles, dense.width)


def _written(dense: _Dense, path: Path) -> _Dense:
    """The same, with places in a file that holds its vectors."""
    count = dense.place_RA.size
    with file_writer(path, {VECTOR: (np.float32, (count, dense.width))}) as write:
        for _, block_BAP in dense.blocks():
            write(block_BAP)
    return replace(dense, place_RA=np.where(dense.present_RA, np.arange(count).reshape(dense.place_RA.shape), -1))


def _write_places(dense: _Dense, scale: tuple[np.ndarray, np.ndarray], path: Path) -> None:
    mean_AP, spread_AP = scale
    with file_writer(path, {USERS: (np.int64, dense.users_R.shape), PLACES: (np.int64, dense.place_RA.shape),
                            MEAN: (np.float64, mean_AP.shape), SPREAD: (np.float64, spread_AP.shape)}) as write:
        for part in (dense.users_R, dense.place_RA, mean_AP, spread_AP):
            write(part)


Blocks = Iterator[tuple[slice, np.ndarray]]
"""The users of each block, and their vectors fp32 [B, A, P]; zeros where there is none."""


@dataclass(frozen=True)
class _Dense:
    """Vectors of the profiled training users, in order; each call of ``blocks`` passes over all of them."""

    users_R: np.ndarray
    place_RA: np.ndarray
    """int64, where each stands; -1: there is none."""
    width: int
    blocks: Callable[[], Blocks]

    @cached_property
    def present_RA(self) -> np.ndarray:
        """bool."""
        present_RA: np.ndarray = self.place_RA >= 0
        return present_RA

    def slices(self) -> Iterator[slice]:
        """The users of each block."""
        num_users, num_angles = self.place_RA.shape
        step = max(1, _BLOCK_BYTES // (num_angles * self.width * np.dtype(np.float32).itemsize))
        return (slice(start, min(start + step, num_users)) for start in range(0, num_users, step))

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of each angle and dimension over the users that have it, fp64 [A, P]."""
        counts_A1 = np.maximum(self.present_RA.sum(axis=0), 1)[:, None]
        mean_AP, variance_AP = (np.zeros((self.place_RA.shape[1], self.width)) for _ in range(2))
        for _, block_BAP in self.blocks():
            mean_AP += block_BAP.sum(axis=0, dtype=np.float64)
        mean_AP /= counts_A1
        for users, block_BAP in self.blocks():
            variance_AP += (self.centred(users, block_BAP, mean_AP) ** 2).sum(axis=0)
        return mean_AP, variance_AP / counts_A1

    def scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and spread, fp64 [A, P]; the spread of a constant dimension is 1."""
        mean_AP, variance_AP = self.moments()
        spread_AP = np.sqrt(variance_AP)
        return mean_AP, np.where(spread_AP <= _FLAT_STD, 1.0, spread_AP)

    def no_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean and spread that change nothing."""
        shape = (self.place_RA.shape[1], self.width)
        return np.zeros(shape), np.ones(shape)

    def centred(self, users: slice, block_BAP: np.ndarray, mean_AP: np.ndarray) -> np.ndarray:
        """fp64; zeros stay where there is no vector."""
        centred_BAP: np.ndarray = (block_BAP - mean_AP) * self.present_RA[users, :, None]
        return centred_BAP


def _own(reduced: VectorRows, names: Sequence[str], users_N: np.ndarray) -> _Dense:
    if (reduced.owners_N[1:] < reduced.owners_N[:-1]).any():
        raise DataError("the targets are not in the order of the users; rebuild the reduce artifact")
    kept_K = np.flatnonzero(held(users_N, reduced.owners_N))
    if not len(kept_K):
        raise DataError("no training user has a profile vector; without them there is nothing to distil: "
                        "see `rejected.parquet` of the profile artifact, or train the plain arm alone")
    users_K = reduced.owners_N[kept_K]
    angles, angle_K = np.unique(reduced.angle_N[kept_K], return_inverse=True)
    first_K = np.append(True, users_K[1:] != users_K[:-1])
    users_R, row_K = users_K[first_K], np.cumsum(first_K) - 1
    place_RA = np.full((len(users_R), len(angles)), -1, np.int64)
    place_RA[row_K, angle_K] = kept_K
    if (place_RA >= 0).sum() != len(users_K):
        raise DataError("a user has two vectors for one angle among the targets; rebuild the reduce artifact")

    def blocks() -> Blocks:
        for users in dense.slices():
            place_BA = place_RA[users]
            yield users, np.where((place_BA >= 0)[..., None], reduced.vectors_NP[place_BA], np.float32(0))

    dense = _Dense(users_R, place_RA, reduced.vectors_NP.shape[1], blocks)
    broken = [place_RA[users][~np.isfinite(block_BAP).all(-1)] for users, block_BAP in blocks()]
    if len(broken_B := np.concatenate(broken)):
        raise DataError(f"the profile vector of user_idx {reduced.owners_N[broken_B[0]]} (angle "
                        f"{names[reduced.angle_N[broken_B[0]]]!r}) holds NaN or Inf; so do {len(broken_B) - 1} others; "
                        "rebuild the reduce artifact")
    return dense


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


def _standardized(dense: _Dense, mean_AP: np.ndarray, spread_AP: np.ndarray) -> _Dense:
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
