"""Exact ranks and recommendations: ties, the seen-item filter, blocks and chunks, edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.errors import DataError, TrainingError
from models.config import BERT4RecConfig, ESASRecConfig, GRU4RecConfig, ModelConfig, SASRecConfig
from models.metrics import per_user
from models.ordering import keys, tie_order
from models.ranking import rank_users
from models.scoring import EncoderScorer, Ranks
from models.sequences import Cases, Sequences, flat_histories
from models.students import build_encoder


class TableScorer:
    """Scores read from a table: row = user of the case, column i - 1 = item i."""

    def __init__(self, table: np.ndarray | list[list[float]]) -> None:
        self.table = torch.tensor(table, dtype=torch.float32)
        self.num_items = self.table.shape[1]
        self.largest = 0

    def states(self, histories: Sequences, indices: np.ndarray) -> np.ndarray:
        return indices

    def scores(self, states: np.ndarray, start: int, stop: int) -> Tensor:
        self.largest = max(self.largest, len(states) * (stop - start))
        return self.table[states, start - 1 : stop - 1]


def make_cases(histories: list[list[int]], targets: list[int]) -> Cases:
    return Cases(np.arange(len(targets)), Sequences.from_lists(histories), np.array(targets, np.int32))


def random_cases(users: int, items: int, seed: int = 0) -> Cases:
    rng = np.random.default_rng(seed)
    histories = [rng.integers(1, items + 1, rng.integers(0, 9)).tolist() for _ in range(users)]
    return make_cases(histories, rng.integers(1, items + 1, users).tolist())


def naive(table: np.ndarray, cases: Cases, top_k: int, tie_seed: int) -> Ranks:
    """Each user's whole catalogue sorted by (score, place among ties)."""
    place = tie_order(table.shape[1], tie_seed)
    columns: list[list[list[int] | int]] = [[], [], [], []]
    for scores, history, target in zip(table, cases.histories, cases.targets, strict=True):
        everything = (np.lexsort((place, -scores)) + 1).tolist()
        unseen = [item for item in everything if item == target or item not in set(history.tolist())]
        for column, value in zip(columns, (
                unseen.index(target) + 1, everything.index(target) + 1, (unseen + [0] * top_k)[:top_k],
                (everything + [0] * top_k)[:top_k]), strict=True):
            column.append(value)
    return Ranks(*(np.array(column, np.int32) for column in columns))


def assert_same(found: Ranks, expected: Ranks) -> None:
    np.testing.assert_array_equal(found.rank, expected.rank)
    np.testing.assert_array_equal(found.rank_unfiltered, expected.rank_unfiltered)
    np.testing.assert_array_equal(found.top, expected.top)
    np.testing.assert_array_equal(found.top_unfiltered, expected.top_unfiltered)


@pytest.mark.parametrize(("batch_users", "item_chunk"), [(1, 1), (7, 5), (64, 30), (64, 64), (1000, 1000)])
@pytest.mark.parametrize("levels", [1, 3, 10**6])
def test_equals_a_full_sort(batch_users: int, item_chunk: int, levels: int) -> None:
    cases = random_cases(users=80, items=64)
    table = np.random.default_rng(1).integers(-levels, levels, (80, 64)).astype(np.float32)
    found = rank_users(TableScorer(table), cases, batch_users=batch_users, item_chunk=item_chunk, top_k=6, tie_seed=3)
    assert_same(found, naive(table, cases, 6, tie_seed=3))


@pytest.mark.parametrize("levels", [2, 40])
def test_equals_a_full_sort_on_wide_chunks(levels: int) -> None:
    """Wide enough for the search by groups of columns, with a rest of columns that fill no group."""
    cases = random_cases(users=20, items=1003)
    table = np.random.default_rng(2).integers(0, levels, (20, 1003)).astype(np.float32)
    assert_same(rank_users(TableScorer(table), cases, item_chunk=997, top_k=5), naive(table, cases, 5, tie_seed=0))


def test_float_scores_give_the_same_ranks_for_any_block_size() -> None:
    cases, rng = random_cases(users=50, items=300), np.random.default_rng(0)
    table = rng.normal(size=(50, 300)).astype(np.float32)
    expected = naive(table, cases, 20, tie_seed=0)
    for batch_users, item_chunk in ((50, 300), (9, 41)):
        found = rank_users(TableScorer(table), cases, batch_users=batch_users, item_chunk=item_chunk)
        assert_same(found, expected)
        assert per_user(found.rank, (10,))["ndcg@10"].tolist() == per_user(expected.rank, (10,))["ndcg@10"].tolist()


def test_never_scores_more_than_one_block() -> None:
    cases = random_cases(users=40, items=100)
    scorer = TableScorer(np.zeros((40, 100)))
    rank_users(scorer, cases, batch_users=8, item_chunk=16)
    assert 0 < scorer.largest <= 8 * 16


def test_ties_follow_the_seeded_order() -> None:
    place = tie_order(9, seed=5)
    found = rank_users(TableScorer(np.zeros((9, 9))), make_cases([[]] * 9, list(range(1, 10))), top_k=9, tie_seed=5)
    assert found.rank.tolist() == (1 + place).tolist()
    assert found.top[0].tolist() == (1 + np.argsort(place)).tolist()


def test_tie_order_is_a_permutation_that_depends_on_the_seed() -> None:
    assert sorted(tie_order(1000, 0)) == list(range(1000))
    assert tie_order(1000, 0).tolist() == tie_order(1000, 0).tolist() != tie_order(1000, 1).tolist()


def test_zero_and_minus_zero_tie() -> None:
    place = tie_order(2, 0)
    first = 1 + int(np.argmin(place))
    for table in ([[0.0, -0.0]], [[-0.0, 0.0]]):
        found = rank_users(TableScorer(table), make_cases([[]], [first]), top_k=2)
        assert found.rank.tolist() == [1]
        assert found.top[0, 0] == first


def test_keys_order_like_scores_then_places() -> None:
    scores = torch.tensor([-torch.inf, -2.5, -1e-40, 0.0, 1e-40, 3.0, 3.0])
    found = keys(scores, torch.tensor([0, 1, 2, 3, 4, 6, 5]))
    assert found.tolist() == sorted(found.tolist())


def test_seen_items_above_the_target_do_not_count() -> None:
    found = rank_users(TableScorer([[5, 4, 3, 2, 1]]), make_cases([[1, 3]], [4]), top_k=3)
    assert (found.rank.tolist(), found.rank_unfiltered.tolist()) == ([4 - 2], [4])
    assert found.top.tolist() == [[2, 4, 5]]
    assert found.top_unfiltered.tolist() == [[1, 2, 3]]


def test_an_item_seen_twice_is_removed_once() -> None:
    found = rank_users(TableScorer([[5, 4, 3]]), make_cases([[1, 1, 1]], [3]), top_k=1)
    assert found.rank.tolist() == [3 - 1]


def test_a_seen_target_stays() -> None:
    found = rank_users(TableScorer([[5, 4, 3]]), make_cases([[1, 2]], [2]), top_k=2)
    assert (found.rank.tolist(), found.rank_unfiltered.tolist()) == ([1], [2])
    assert found.top.tolist() == [[2, 3]]


def test_a_target_stands_in_the_list_at_its_rank() -> None:
    cases = random_cases(users=60, items=30)
    table = np.random.default_rng(3).integers(0, 4, (60, 30)).astype(np.float32)
    found = rank_users(TableScorer(table), cases, top_k=10)
    for ranks, top in ((found.rank, found.top), (found.rank_unfiltered, found.top_unfiltered)):
        listed = ranks <= 10
        assert listed.any() and not listed.all()
        assert (top[listed, ranks[listed] - 1] == cases.targets[listed]).all()
        assert not (top[~listed] == cases.targets[~listed, None]).any()


def test_ranks_only() -> None:
    cases, table = random_cases(users=30, items=40), np.random.default_rng(4).normal(size=(30, 40))
    found, full = rank_users(TableScorer(table), cases, top_k=0), rank_users(TableScorer(table), cases)
    assert found.top.shape == (30, 0)
    assert found.rank.tolist() == full.rank.tolist()


def test_catalogue_of_one_item() -> None:
    found = rank_users(TableScorer([[0.5], [0.5]]), make_cases([[], [1]], [1, 1]), top_k=3)
    assert (found.rank.tolist(), found.rank_unfiltered.tolist()) == ([1, 1], [1, 1])
    assert found.top.tolist() == [[1, 0, 0], [1, 0, 0]]


def test_lists_end_where_no_item_is_left() -> None:
    found = rank_users(TableScorer([[1, 2, 3, 4]]), make_cases([[4, 3, 1]], [2]), top_k=4)
    assert found.top.tolist() == [[2, 0, 0, 0]]
    assert found.top_unfiltered.tolist() == [[4, 3, 2, 1]]


def test_no_cases() -> None:
    found = rank_users(TableScorer([[1, 2]]), make_cases([], []), top_k=2)
    assert found.rank.shape == (0,) and found.top.shape == (0, 2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_stops_the_ranking(bad: float) -> None:
    with pytest.raises(TrainingError, match="user 1, item 3"):
        rank_users(TableScorer([[1, 2, 3], [1, 2, bad]]), make_cases([[], []], [1, 1]), item_chunk=2)


def test_scores_whose_sum_overflows_are_fine() -> None:
    found = rank_users(TableScorer([[3e38, 2e38, 1e38]]), make_cases([[]], [2]), top_k=1)
    assert (found.rank.tolist(), found.top.tolist()) == ([2], [[1]])


@pytest.mark.parametrize(("histories", "targets", "message"), [
    ([[]], [4], "target: got 4"), ([[]], [0], "target: got 0"), ([[7]], [1], "history item: got 7"),
    ([[0]], [1], "history item: got 0")])
def test_items_outside_the_catalogue_are_an_error(histories: list[list[int]], targets: list[int],
                                                  message: str) -> None:
    with pytest.raises(DataError, match=message):
        rank_users(TableScorer([[1, 2, 3]]), make_cases(histories, targets))


def test_illegal_sizes_are_an_error() -> None:
    with pytest.raises(DataError, match="item_chunk: got 0"):
        rank_users(TableScorer([[1.0]]), make_cases([[]], [1]), item_chunk=0)


def test_flat_histories_follow_the_chosen_rows() -> None:
    rows, items, steps_back = flat_histories(Sequences.from_lists([[1, 2, 3], [], [4], [5, 6]]), np.array([3, 1, 0]))
    assert rows.tolist() == [0, 0, 2, 2, 2]
    assert items.tolist() == [5, 6, 1, 2, 3]
    assert steps_back.tolist() == [1, 0, 2, 1, 0]


@pytest.mark.parametrize("kind", [SASRecConfig, BERT4RecConfig, ESASRecConfig, GRU4RecConfig])
def test_encoder_scores_equal_one_user_at_a_time(kind: type[ModelConfig]) -> None:
    """Padding, sorting by length and cutting into batches leave each user's scores and their order alone."""
    encoder = build_encoder(kind(hidden_dim=8, max_length=5), num_items=30, seed=0).train()
    cases = random_cases(users=300, items=30)
    scorer = EncoderScorer(encoder)
    chosen = np.array([299, 3, 150, 4, 5])
    together = scorer.scores(scorer.states(cases.histories, np.arange(300)), 1, 31)
    assert encoder.training
    encoder.eval()
    with torch.no_grad():
        for user in chosen:
            items_BL = torch.from_numpy(cases.histories.padded(np.array([user]), 5))
            alone = encoder.user_states_BD(items_BL)[0] @ encoder.item_weights_VD().T
            torch.testing.assert_close(together[user], alone, rtol=1e-4, atol=1e-6)
    encoder.train()
    some = scorer.scores(scorer.states(cases.histories, chosen), 11, 21)
    torch.testing.assert_close(some, together[chosen, 10:20], rtol=1e-4, atol=1e-6)


def test_an_evaluated_encoder_stays_in_evaluation_mode() -> None:
    encoder = build_encoder(SASRecConfig(hidden_dim=8), num_items=5, seed=0).eval()
    rank_users(EncoderScorer(encoder), make_cases([[1], [2, 3]], [2, 4]))
    assert not encoder.training


def test_an_item_that_was_never_trained_is_ranked_like_any_other() -> None:
    """The catalogue decides what is ranked, not the training part."""
    encoder = build_encoder(SASRecConfig(hidden_dim=8), num_items=6, seed=0)
    found = rank_users(EncoderScorer(encoder), make_cases([[1]] * 6, [1, 2, 3, 4, 5, 6]), top_k=6)
    assert sorted(found.rank_unfiltered.tolist()) == [1, 2, 3, 4, 5, 6]
