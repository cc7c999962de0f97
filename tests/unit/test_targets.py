"""Teacher targets of the arms: own, shuffled, random; standardised; masked where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from configs.errors import DataError
from pipeline.store.tensors import file_writer
from pipeline.train import dense_targets
from pipeline.train.targets import Targets
from pipeline.work.shuffle import derangement, noise_like
from tests.vectors import built

USERS = np.array([0, 2, 3, 5, 8])
ROWS = [(user, "overall", [first, 5.0]) for user, first in ((0, 1.0), (1, 100.0), (3, 2.0), (8, 6.0))]


def opened(tmp_path: Path, rows: Any = None, arm: Any = "distilled", seed: int = 0, standardize: bool = False
           ) -> Targets:
    return built(rows or ROWS, USERS, tmp_path, arm, seed, standardize)[0]


def test_own_vectors_and_masks(tmp_path: Path) -> None:
    vectors, present = opened(tmp_path).gather(np.array([4, 1, 0]))
    assert vectors.tolist() == [[[6.0, 5.0]], [[0.0, 0.0]], [[1.0, 5.0]]]
    assert present.tolist() == [[True], [False], [True]]


def test_users_outside_training_do_not_count(tmp_path: Path) -> None:
    _, shape = built(ROWS, USERS, tmp_path)
    assert (shape.num_profiled, shape.num_angles, shape.profile_dim) == (3, 1, 2)


def test_statistics_are_those_of_the_profiled_training_users(tmp_path: Path) -> None:
    vectors, _ = opened(tmp_path, standardize=True).gather(np.array([0, 2, 4]))
    mean, std = (1 + 2 + 6) / 3, np.std([1.0, 2.0, 6.0])
    assert vectors[:, 0, 0].tolist() == pytest.approx([(v - mean) / std for v in (1, 2, 6)], rel=1e-6)
    assert vectors[:, 0, 1].tolist() == [0.0, 0.0, 0.0]  # a constant dimension is centred, never blown up


def test_angles_are_standardised_apart_and_may_be_missing(tmp_path: Path) -> None:
    rows = [(0, "recent", [1.0]), (0, "overall", [10.0]), (2, "overall", [30.0]), (3, "recent", [3.0])]
    vectors, present = opened(tmp_path, rows, standardize=True).gather(np.array([0, 1, 2]))
    assert vectors[..., 0].tolist() == [[-1.0, -1.0], [1.0, 0.0], [0.0, 1.0]]  # overall, recent
    assert present.tolist() == [[True, True], [True, False], [False, True]]


def test_shuffling_gives_every_profiled_user_another_ones_vector(tmp_path: Path) -> None:
    own = opened(tmp_path).gather(np.arange(5))
    for seed in range(5):
        shuffled = opened(tmp_path, arm="shuffled", seed=seed).gather(np.arange(5))
        assert shuffled[1].equal(own[1])
        assert sorted(shuffled[0][:, 0, 0].tolist()) == sorted(own[0][:, 0, 0].tolist())
        assert not (shuffled[0] == own[0]).all(-1)[own[1]].any()


@pytest.mark.parametrize("count", [2, 3, 50])
def test_derangement_leaves_nobody_in_place(count: int) -> None:
    for seed in range(20):
        donor = derangement(count, np.random.default_rng(seed))
        assert sorted(donor) == list(range(count))
        assert (donor != np.arange(count)).all()
    first, again = (derangement(count, np.random.default_rng(1)) for _ in range(2))
    assert np.array_equal(first, again)


def test_noise_has_the_shape_and_the_users_of_the_targets(tmp_path: Path) -> None:
    rows = [(user, "overall", [float(user), 1.0 - user]) for user in (0, 3, 8)]
    vectors, present = opened(tmp_path, rows, arm="random", seed=1).gather(np.arange(5))
    assert present[:, 0].tolist() == [True, False, True, False, True]
    assert (vectors[~present] == 0).all()
    again, _ = opened(tmp_path, rows, arm="random", seed=1).gather(np.arange(5))
    other, _ = opened(tmp_path, rows, arm="random", seed=2).gather(np.arange(5))
    assert vectors.equal(again) and not vectors.equal(other)


def test_noise_has_the_mean_and_the_covariance_of_what_it_stands_for() -> None:
    rng = np.random.default_rng(0)
    rows_NE = (rng.normal(size=(20_000, 3)) @ rng.normal(size=(3, 4)) + 5).astype(np.float32)  # of rank 3
    noise_NE = noise_like(rows_NE, rng)
    spread = np.cov(rows_NE.T)
    np.testing.assert_allclose(noise_NE.mean(0), rows_NE.mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(noise_NE.T), spread, atol=0.05 * spread.max())
    assert np.linalg.matrix_rank(noise_NE - noise_NE.mean(0), tol=1) == 3
    assert abs(np.corrcoef(noise_NE[:, 0], rows_NE[:, 0])[0, 1]) < 0.05


@pytest.mark.parametrize(("rows", "arm", "message"), [
    ([(1, "overall", [1.0])], "distilled", "no training user has a profile vector"),
    ([(0, "overall", [1.0]), (0, "overall", [2.0])], "distilled", "two vectors for one angle"),
    ([(0, "overall", [1.0]), (3, "overall", [float("inf")])], "distilled", "user_idx 3 .* holds NaN or Inf"),
    ([(0, "overall", [1.0])], "shuffled", "at least 2 users"),
])
def test_unusable_targets(tmp_path: Path, rows: Any, arm: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(tmp_path, rows, arm)


@pytest.mark.parametrize("arm", ["distilled", "shuffled", "random"])
def test_blocks_of_users_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: Any) -> None:
    """Whether users' angles are missing or a block ends among a batch's rows; sums alone may round otherwise."""
    rng = np.random.default_rng(3)
    rows = [(int(user), angle, rng.normal(2, 3, 3).tolist()) for user in USERS for angle in ("overall", "recent")
            if (user, angle) != (2, "recent")]
    whole = opened(tmp_path, rows, arm, standardize=True).gather(np.arange(5))
    monkeypatch.setattr(dense_targets, "_BLOCK_BYTES", 2 * 2 * 3 * 4)  # two users
    (tmp_path / "blocks").mkdir()
    vectors, present = opened(tmp_path / "blocks", rows, arm, standardize=True).gather(np.arange(5))
    assert present.equal(whole[1])
    np.testing.assert_allclose(vectors, whole[0], rtol=1e-5, atol=1e-6)


def test_what_users_outside_training_hold_does_not_matter(tmp_path: Path) -> None:
    vectors, _ = opened(tmp_path, [(0, "overall", [1.0]), (1, "overall", [float("nan")])]).gather(np.array([0]))
    assert vectors.tolist() == [[[1.0]]]


def test_rows_in_another_order_than_the_users_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not in the order of the users; rebuild"):
        opened(tmp_path, ROWS[::-1])


@pytest.mark.parametrize(("arm", "made"), [("distilled", False), ("shuffled", False), ("random", True)])
def test_vectors_of_reduce_are_mapped_and_not_copied(tmp_path: Path, arm: str, made: bool) -> None:
    """At a hundred million users they take 25.6 GB per angle, for every arm and seed."""
    found = opened(tmp_path, arm=arm, standardize=True)
    assert not found.vectors_VP.flags.owndata and not found.place_RA.flags.owndata
    assert (tmp_path / "made.safetensors").exists() == made
    if not made:
        assert found.vectors_VP.tolist() == [vector for _, _, vector in ROWS]
    read = load_file(tmp_path / "targets.safetensors")
    assert read["users"].tolist() == [0, 3, 8] and np.array_equal(read["places"], found.place_RA)


def test_a_file_of_another_size_than_was_told_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8 of 16 bytes"), file_writer(tmp_path / "f", {"x": (np.int64, (2,))}) as add:
        add(np.arange(1))
