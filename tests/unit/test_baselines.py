"""Baselines: figures of tiny training sets worked out by hand, EASE against the textbook formula."""

from __future__ import annotations

from math import exp, sqrt

import numpy as np
import pytest

from models.ranking import rank_users
from models.scoring import Scorer
from models.sequences import Cases, Sequences
from pipeline.evaluate.baselines import fit_baseline, fit_item_knn, fit_transitions
from pipeline.evaluate.config import Baseline, EASEConfig, EvaluateConfig, ItemKNNConfig, TransitionsConfig
from pipeline.evaluate.ease import fit_ease
from pipeline.evaluate.histories import weighted_histories

TRAIN = Sequences.from_lists([[1, 2, 3], [1, 2], [2, 1, 4], [3]])
ITEMS = 5
BASELINES: tuple[Baseline, ...] = ("popularity", "transitions", "item_knn", "ease")


def scores(scorer: Scorer, *histories: list[int]) -> np.ndarray:
    """[B, V]."""
    states = scorer.states(Sequences.from_lists(list(histories)), np.arange(len(histories)))
    return scorer.scores(states, 1, scorer.num_items + 1).numpy()


def test_popularity_is_the_training_count() -> None:
    scorer = fit_baseline(EvaluateConfig(), "popularity", TRAIN, ITEMS)
    assert scores(scorer, [1], []).tolist() == [[3, 3, 2, 1, 0]] * 2


def test_popularity_ties_follow_the_seed() -> None:
    scorer = fit_baseline(EvaluateConfig(), "popularity", TRAIN, ITEMS)
    cases = Cases(np.arange(2), Sequences.from_lists([[], []]), np.array([1, 2], np.int32))
    ranks = {tuple(rank_users(scorer, cases, tie_seed=seed).rank.tolist()) for seed in range(20)}
    assert ranks == {(1, 2), (2, 1)}


def test_transitions_are_shares_of_what_followed() -> None:
    """After 1 came 2 twice and 4 once; after 2 came 3 and 1 once each; nothing follows across users."""
    scorer = fit_transitions(TransitionsConfig(popularity_backoff=0), TRAIN, ITEMS)
    np.testing.assert_allclose(scores(scorer, [3, 1], [1, 2], [4]),
                               [[0.0, 2 / 3, 0, 1 / 3, 0], [1 / 2, 0.0, 1 / 2, 0, 0], [0.0, 0, 0, 0, 0]], rtol=1e-6)


def test_popularity_orders_what_transitions_leave_equal() -> None:
    scorer = fit_transitions(TransitionsConfig(popularity_backoff=0.3), TRAIN, ITEMS)
    np.testing.assert_allclose(scores(scorer, [2], []), [
        [1 / 2 + 0.3 * 3 / 3, 0.3 * 3 / 3, 1 / 2 + 0.3 * 2 / 3, 0.3 * 1 / 3, 0],
        [0.3 * 3 / 3, 0.3 * 3 / 3, 0.3 * 2 / 3, 0.3 * 1 / 3, 0]], rtol=1e-6)


def test_item_knn_is_the_cosine_over_users() -> None:
    """Users of 1: a b c; of 2: a b c; of 3: a d; of 4: c."""
    scorer = fit_item_knn(ItemKNNConfig(shrinkage=0, recency_decay=0, popularity_backoff=0), TRAIN, ITEMS)
    np.testing.assert_allclose(scores(scorer, [1], [3, 4]), [
        [0, 3 / (sqrt(3) * sqrt(3)), 1 / (sqrt(3) * sqrt(2)), 1 / (sqrt(3) * sqrt(1)), 0],
        [1 / (sqrt(2) * sqrt(3)) + 1 / sqrt(3), 1 / (sqrt(2) * sqrt(3)) + 1 / sqrt(3), 0, 0, 0]], rtol=1e-6)


def test_item_knn_shrinks_neighbours_cuts_them_and_decays() -> None:
    config = ItemKNNConfig(neighbors=1, shrinkage=2, recency_decay=0.7, popularity_backoff=0)
    scorer = fit_item_knn(config, TRAIN, ITEMS)
    # 2 is nearest to 1; 1 and 2 are equally near to 3, and the lower index stays
    np.testing.assert_allclose(scores(scorer, [1, 3]), [
        [1 / (sqrt(2) * sqrt(3) + 2), exp(-0.7) * 3 / (3 + 2), 0, 0, 0]], rtol=1e-6)


def test_item_knn_does_not_depend_on_its_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    train = Sequences.from_lists([rng.integers(1, 41, 6).tolist() for _ in range(60)])
    whole = fit_item_knn(ItemKNNConfig(neighbors=5), train, 40)
    monkeypatch.setattr("pipeline.evaluate.baselines._BLOCK_ITEMS", 7)
    blocks = fit_item_knn(ItemKNNConfig(neighbors=5), train, 40)
    assert (whole.links_VV != blocks.links_VV).nnz == 0
    assert whole.links_VV.getnnz(axis=1).max() == 5


def test_ease_equals_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    train = Sequences.from_lists([rng.integers(1, 31, rng.integers(1, 9)).tolist() for _ in range(200)])
    x = np.zeros((200, 30))
    for user, items in enumerate(train):
        for steps_back, item in enumerate(items[::-1]):
            x[user, item - 1] = max(x[user, item - 1], exp(-0.2 * steps_back))
    inverse = np.linalg.inv(x.T @ x + 10 * np.eye(30))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    scorer = fit_ease(EASEConfig(l2=10, recency_decay=0.5, train_decay=0.2), train, 30)
    np.testing.assert_allclose(scorer.weights_VV, weights, atol=1e-6)
    expected = 1.0 * weights[4] + exp(-0.5) * weights[8]
    np.testing.assert_allclose(scores(scorer, [9, 5], [])[0], expected, atol=1e-6)
    assert scores(scorer, [9, 5], [])[1].tolist() == [0] * 30


def test_weights_fall_with_steps_back_and_a_repeated_item_counts_at_its_last_place() -> None:
    histories = Sequences.from_lists([[1, 2, 1, 3], [], [2]])
    found = weighted_histories(histories, np.array([2, 0, 1]), 0.5, 4).toarray()
    np.testing.assert_allclose(found, [[0.0, 1, 0, 0], [exp(-0.5), exp(-1.0), 1, 0], [0.0, 0, 0, 0]], rtol=1e-6)
    assert weighted_histories(histories, np.array([0]), 0.5, 4, last_items=1).toarray().tolist() == [[0, 0, 1, 0]]


def test_weights_too_small_to_matter_are_left_out() -> None:
    long = Sequences.from_lists([list(range(1, 201))])
    found = weighted_histories(long, np.array([0]), 1.0, 200)
    assert found.nnz == 19  # exp(-18) > 1e-8 > exp(-19)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_ranks_every_item_for_any_history(name: Baseline) -> None:
    """No history, one interaction, an item that training never saw, in chunks."""
    scorer = fit_baseline(EvaluateConfig(), name, TRAIN, ITEMS)
    for history in ([], [3], [5], [1, 2, 3, 4]):
        cases = Cases(np.arange(5), Sequences.from_lists([history] * 5), np.arange(1, 6, dtype=np.int32))
        found = rank_users(scorer, cases, item_chunk=2, top_k=5)
        assert sorted(found.rank_unfiltered.tolist()) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_fits_a_catalogue_of_one_item_and_one_user_of_one_interaction(name: Baseline) -> None:
    scorer = fit_baseline(EvaluateConfig(), name, Sequences.from_lists([[1]]), 1)
    assert np.isfinite(scores(scorer, [1], [])).all()


@pytest.mark.parametrize("name", BASELINES)
def test_chunks_of_items_are_columns_of_the_whole(name: Baseline) -> None:
    scorer = fit_baseline(EvaluateConfig(), name, TRAIN, ITEMS)
    states = scorer.states(Sequences.from_lists([[1, 2], [3]]), np.arange(2))
    whole = scorer.scores(states, 1, 6).numpy()
    np.testing.assert_array_equal(scorer.scores(states, 2, 4).numpy(), whole[:, 1:3])
