"""The training matrix in the place of a teacher's vectors, against numpy's dense decomposition."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from models.sequences import Sequences
from pipeline.train.collaborative import TrainingMatrix
from pipeline.train.data import TrainingRows
from pipeline.train.item_vectors import ItemVectors
from tests.sequences import generate
from tests.vectors import built

ITEMS = 60


def matrix(seed: int = 0) -> tuple[TrainingMatrix, np.ndarray]:
    """A matrix of every second of 120 users, and the same as a dense array."""
    sequences = generate(120, ITEMS, seed=1)
    index_N = np.arange(0, 120, 2)
    dense_NV = np.zeros((60, ITEMS))
    for row, index in enumerate(index_N):
        dense_NV[row, sequences[int(index)] - 1] = 1
    return TrainingMatrix(TrainingRows(np.arange(120) + 1000, index_N, sequences, 50), ITEMS, seed), dense_NV


def test_leading_directions_are_those_of_the_dense_matrix() -> None:
    found, dense_NV = matrix()
    left, values, right = np.linalg.svd(dense_NV, full_matrices=False)
    users, items = found.users(5), found.items(5)
    np.testing.assert_allclose(users @ users.T, (left[:, :5] * values[:5] ** 2) @ left[:, :5].T, atol=2e-3)
    np.testing.assert_allclose(items @ items.T, (right[:5].T * values[:5] ** 2) @ right[:5], atol=2e-3)
    assert np.array_equal(users, matrix()[0].users(5))
    np.testing.assert_allclose(np.abs(matrix(7)[0].users(5)), np.abs(users), atol=2e-3)


def test_a_width_beyond_the_rank_is_filled_with_zeros() -> None:
    found, dense_NV = matrix()
    users = found.users(100)
    assert users.shape == (60, 100) and not users[:, 60:].any()
    np.testing.assert_allclose(users @ users.T, dense_NV @ dense_NV.T, atol=1e-3)
    one = TrainingMatrix(TrainingRows(np.array([0]), np.array([0]), Sequences.from_lists([[2, 2, 1]]), 9), 3, 0)
    np.testing.assert_allclose(np.abs(one.items(2)), [[1, 0], [1, 0], [0, 0]], atol=1e-6)  # a repeated item is one


@pytest.mark.parametrize("standardize", [False, True])
def test_profiled_users_get_their_place_in_the_matrix_with_the_profiles_spread(tmp_path: Path, standardize: bool
                                                                              ) -> None:
    found, _ = matrix()
    users_N = found.rows.users_N
    owners = users_N[[3, 10, 11, 40]]
    vectors = np.random.default_rng(0).normal(4, 3, size=(4, 3)).astype(np.float32)
    rows = [(int(user), "a", vector) for user, vector in zip(owners, vectors.tolist(), strict=True)]
    targets, _ = built(rows, users_N, tmp_path, "collaborative", standardize=standardize, train=found)
    given, present = targets.gather(np.arange(60))
    assert present[:, 0].nonzero()[:, 0].tolist() == [3, 10, 11, 40]
    got = given[[3, 10, 11, 40], 0].numpy().astype(float)
    raw = found.users(3)[[3, 10, 11, 40]].astype(float)
    if standardize:
        np.testing.assert_allclose(got, (raw - raw.mean(0)) / raw.std(0), atol=1e-4)
    else:
        assert got.var(axis=0).sum() == pytest.approx(vectors.astype(float).var(axis=0).sum(), rel=1e-4)
        np.testing.assert_allclose(got / np.linalg.norm(got), raw / np.linalg.norm(raw), atol=1e-4)


def test_items_get_theirs_and_those_without_text_stay_without() -> None:
    found, _ = matrix()
    known = np.arange(ITEMS) % 3 > 0
    own = ItemVectors(np.where(known[:, None], np.float32(2), np.float32(0)) * np.ones((1, 4), np.float32), known)
    given = own.controlled("collaborative", 0, found)
    np.testing.assert_array_equal(given.vectors_VE[known], found.items(4)[known])
    assert not given.vectors_VE[~known].any() and own.controlled("none", 0, cast(TrainingMatrix, None)) is own
