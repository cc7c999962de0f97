"""Exact ranks and lists of inner products: against a full sort in double precision, ties and doubts included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from configs.errors import DataError, TrainingError
from models import few_users, products, ranking
from models.config import SASRecConfig
from models.ordering import tie_order
from models.products import Catalogue, ItemsAhead, Seen, Tiles, exact_scores
from models.ranking import rank_users, recommend
from models.scoring import EncoderScorer
from models.sequences import Cases, Sequences
from models.students import build_encoder

SIZES = [(1000, 10_000), (7, 41), (64, 504)]


def scorer_of(num_items: int, twins: int = 0, dim: int = 16) -> EncoderScorer:
    """An untrained student; its first ``twins`` items share one vector, so their scores tie for everyone."""
    encoder = build_encoder(SASRecConfig(hidden_dim=dim, max_length=6), num_items, seed=0).eval()
    with torch.no_grad():
        encoder.item_embedding.weight.mul_(5)
        encoder.item_embedding.weight[1 : 1 + twins] = encoder.item_embedding.weight[1].clone()
    return EncoderScorer(encoder)


def cases_of(users: int, num_items: int) -> Cases:
    rng = np.random.default_rng(1)
    histories = [rng.integers(1, num_items + 1, rng.integers(0, 12)).tolist() for _ in range(users)]
    return Cases(np.arange(users), Sequences.from_lists(histories), rng.integers(1, num_items + 1, users)
                 .astype(np.int32))


def sorted_items(scorer: EncoderScorer, cases: Cases, tie_seed: int) -> list[list[int]]:
    """Each user's whole catalogue, best first, from double precision; twins tie by construction."""
    states_ND = scorer.states(cases.histories, np.arange(len(cases)))
    scores_NV = (states_ND.double() @ scorer.items_VD.double().T).numpy().round(12)
    place_V = tie_order(scorer.num_items, tie_seed)
    return [(np.lexsort((place_V, -scores_V)) + 1).tolist() for scores_V in scores_NV]


@pytest.mark.parametrize(("batch_users", "item_chunk"), SIZES)
@pytest.mark.parametrize(("users", "num_items", "twins"), [(120, 3000, 6), (60, 50, 6), (40, 9, 9)])
def test_ranks_and_lists_equal_a_full_sort(users: int, num_items: int, twins: int, batch_users: int, item_chunk: int
                                           ) -> None:
    scorer, cases, k = scorer_of(num_items, twins), cases_of(users, num_items), 12
    found = rank_users(scorer, cases, batch_users=batch_users, item_chunk=item_chunk, top_k=k, tie_seed=4)
    for row, (everything, history, target) in enumerate(zip(
            sorted_items(scorer, cases, 4), cases.histories, cases.targets, strict=True)):
        unseen = [item for item in everything if item == target or item not in set(history.tolist())]
        assert found.rank[row] == 1 + unseen.index(target)
        assert found.rank_unfiltered[row] == 1 + everything.index(target)
        assert found.top[row].tolist() == (unseen + [0] * k)[:k]
        assert found.top_unfiltered[row].tolist() == (everything + [0] * k)[:k]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("num_items", "twins"), [(5000, 0), (5000, 40), (30, 30)])
def test_recommended_lists_equal_a_full_sort(precision: str, num_items: int, twins: int) -> None:
    scorer, cases, k = scorer_of(num_items, twins), cases_of(150, num_items), 10
    found = recommend(scorer, cases.histories, k, precision=precision).items_NK  # type: ignore[arg-type]
    everyone = recommend(scorer, cases.histories, k, filter_seen=False,
                         precision=precision).items_NK  # type: ignore[arg-type]
    for row, (everything, history) in enumerate(zip(sorted_items(scorer, cases, 0), cases.histories, strict=True)):
        unseen = [item for item in everything if item not in set(history.tolist())]
        assert found[row].tolist() == (unseen + [0] * k)[:k]
        assert everyone[row].tolist() == everything[:k]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("scores_at_once", [1, 1 << 14, 1 << 24])
@pytest.mark.parametrize("change", ["none", "lengths", "negative", "twins"])
def test_a_few_users_get_the_lists_that_many_get(precision: str, scores_at_once: int, change: str,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, cases, k = scorer_of(5001, twins=400 if change == "twins" else 0), cases_of(50, 5001), 12
    if change == "lengths":
        order_V = torch.randperm(5001, generator=torch.Generator().manual_seed(0))
        scorer.items_VD = scorer.items_VD * torch.logspace(-3, 2, 5001)[order_V, None]
    if change == "negative":  # every score of every user
        away_D = scorer.states(cases.histories, np.arange(50)).mean(0)
        scorer.items_VD = scorer.items_VD - 1000 * away_D
    best_of_few, blocks = few_users.best_of_few, []
    monkeypatch.setattr(few_users, "_SCORES", scores_at_once)
    monkeypatch.setattr(few_users, "best_of_few", lambda *given: blocks.append(1) or best_of_few(*given))
    few = recommend(scorer, cases.histories, k, precision=precision)  # type: ignore[arg-type]
    monkeypatch.setattr(few_users, "FEW_USERS", 0)
    many = recommend(scorer, cases.histories, k)
    assert blocks == [1]
    assert few.items_NK.tolist() == many.items_NK.tolist() and few.scores_NK.tolist() == many.scores_NK.tolist()
    assert change != "negative" or few.scores_NK.max() < 0


def test_scores_that_fp32_cannot_tell_apart_are_told_apart() -> None:
    """Item i scores 1 + i·2⁻⁴⁰: equal in fp32, whose pass must hand all of them to double precision."""
    count = 300
    states_ND = torch.tensor([[1.0, 2.0**-40]])
    items_VD = torch.stack([torch.ones(count), torch.arange(count, dtype=torch.float32)], 1)
    catalogue = Catalogue(items_VD, tie_order(count, 0))
    none = np.zeros(0, np.int64)
    tiles = Tiles(states_ND, catalogue, Seen(none, none), 1, 128)
    assert (tiles.scores_BC(slice(0, 1), slice(0, 100)) == 1.0).all()
    ahead = ItemsAhead(tiles, np.array([250]))
    for users, items in tiles:
        ahead.add(tiles.scores_BC(users, items), users, items)
    assert ahead.result()[0].tolist() == [count - 251]


def test_many_doubts_are_settled_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_EXACT_PAIRS", 64)
    scorer, cases = scorer_of(200, twins=200), cases_of(30, 200)
    found = rank_users(scorer, cases, top_k=0)
    place = tie_order(200, 0)
    assert found.rank_unfiltered.tolist() == (1 + place[cases.targets - 1]).tolist()


def test_exact_scores_depend_on_the_pair_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    states_ND, items_VD = torch.randn(50, 37, generator=generator), torch.randn(80, 37, generator=generator)
    rows, columns = np.repeat(np.arange(50), 80), np.tile(np.arange(80), 50)
    together = exact_scores(states_ND, items_VD, rows, columns)
    np.testing.assert_allclose(together, (states_ND.double() @ items_VD.double().T).numpy().ravel(), rtol=1e-12)
    alone = [exact_scores(states_ND, items_VD, rows[i : i + 1], columns[i : i + 1])[0] for i in range(0, 4000, 97)]
    assert alone == together[::97].tolist()


def test_shards_on_threads_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a training encoder drops nothing out, in whichever thread it encodes."""
    scorer, cases = scorer_of(400), cases_of(90, 400)
    whole, lists = rank_users(scorer, cases, top_k=7), recommend(scorer, cases.histories, 7).items_NK
    monkeypatch.setattr(ranking, "SHARD_USERS", 20)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    encoder = build_encoder(SASRecConfig(hidden_dim=16, max_length=10, dropout=0.9), num_items=400, seed=0).train()
    training = EncoderScorer(encoder)
    try:
        found, parts = rank_users(scorer, cases, top_k=7), recommend(scorer, cases.histories, 7).items_NK
        dropped, again = (recommend(training, cases.histories, 7).items_NK for _ in range(2))
    finally:
        torch.set_num_threads(before)
    for name in ("rank", "rank_unfiltered", "top", "top_unfiltered"):
        assert getattr(found, name).tolist() == getattr(whole, name).tolist()
    assert parts.tolist() == lists.tolist()
    assert dropped.tolist() == again.tolist()
    assert encoder.training


def test_rough_products_widen_the_doubts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lets torch round fp32 products to bf16 still gets exact ranks."""
    scorer, cases = scorer_of(400), cases_of(50, 400)
    exact = rank_users(scorer, cases, top_k=5)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        found = rank_users(scorer, cases, top_k=5)
    finally:
        torch.set_float32_matmul_precision(before)
    assert found.rank.tolist() == exact.rank.tolist()
    assert found.top.tolist() == exact.top.tolist()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_vector_without_finite_scores_is_named(value: float) -> None:
    scorer, cases = scorer_of(20), cases_of(3, 20)
    scorer.items_VD = scorer.items_VD.clone()
    scorer.items_VD[6] = value
    if value == 1e30:
        scorer.items_VD[6] *= 1e8
    for work in (lambda: rank_users(scorer, cases), lambda: recommend(scorer, cases.histories, 3)):
        with pytest.raises(TrainingError, match="item 7: got"):
            work()


def test_nothing_to_recommend_is_an_error() -> None:
    scorer = scorer_of(20)
    with pytest.raises(DataError, match="top_k: got 0"):
        recommend(scorer, cases_of(3, 20).histories, 0)
    assert recommend(scorer, Sequences.from_lists([]), 3).items_NK.shape == (0, 3)
