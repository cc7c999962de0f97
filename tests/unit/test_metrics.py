"""Recall, NDCG and MRR of one target per user; coverage and popularity of recommended lists."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest

from configs.errors import DataError
from models.metrics import coverage, mean, mean_popularity, per_user, times_listed


def test_one_hit_at_each_rank() -> None:
    values = per_user(np.array([1, 2, 3, 10, 11]), (10,))
    assert values["recall@10"].tolist() == [1, 1, 1, 1, 0]
    np.testing.assert_allclose(values["ndcg@10"], [1, 1 / log2(3), 1 / log2(4), 1 / log2(11), 0], rtol=1e-15)
    assert values["mrr@10"].tolist() == [1, 1 / 2, 1 / 3, 1 / 10, 0]


def test_a_rank_at_the_cutoff_counts_and_the_next_does_not() -> None:
    values = per_user(np.array([5, 6]), (5, 10))
    assert values["recall@5"].tolist() == [1, 0]
    assert values["recall@10"].tolist() == [1, 1]


def test_names_follow_cutoffs() -> None:
    assert list(per_user(np.array([1]), (5, 20))) == ["recall@5", "ndcg@5", "mrr@5", "recall@20", "ndcg@20", "mrr@20"]


def test_mean_is_sum_over_count() -> None:
    means = mean(per_user(np.array([1, 3, 50]), (10,)))
    assert means == {"recall@10": 2 / 3, "ndcg@10": (1 + 1 / log2(4)) / 3, "mrr@10": (1 + 1 / 3) / 3}


def test_mean_does_not_depend_on_the_order_of_users() -> None:
    ranks = np.random.default_rng(0).integers(1, 30, 1000)
    assert mean(per_user(ranks, (10,))) == mean(per_user(ranks[::-1].copy(), (10,)))


def test_no_users_is_an_error() -> None:
    with pytest.raises(DataError, match="no users"):
        mean(per_user(np.zeros(0, np.int32), (10,)))


@pytest.mark.parametrize(("ranks", "cutoff"), [([0], 10), ([1], 0)])
def test_a_rank_or_cutoff_below_one_is_an_error(ranks: list[int], cutoff: int) -> None:
    with pytest.raises(DataError, match="got 0"):
        per_user(np.array(ranks), (cutoff,))


def test_coverage_counts_each_recommended_item_once() -> None:
    times_V = times_listed(np.array([[1, 2], [1, 3], [4, 0]]), 8)
    assert times_V.tolist() == [2, 1, 1, 1, 0, 0, 0, 0]
    assert coverage(times_V) == 4 / 8


def test_popularity_is_the_mean_count_of_filled_places() -> None:
    assert mean_popularity(times_listed(np.array([[1, 2], [3, 0]]), 3), np.array([10, 4, 1])) == (10 + 4 + 1) / 3


def test_popularity_of_empty_lists_is_zero() -> None:
    assert mean_popularity(times_listed(np.zeros((2, 3), np.int32), 1), np.array([5])) == 0
