"""Baselines as teachers, at every position of a batch, against the baselines that `evaluate` ranks with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models import history_scores
from models.history_scores import Links, LinkScores, Votes, prefix_weights_BLL
from models.sequences import Sequences
from pipeline.evaluate.baselines import fit_baseline, following
from pipeline.evaluate.config import EvaluateConfig
from pipeline.train.collaborative import TrainingMatrix
from pipeline.train.data import TrainingRows
from pipeline.train.ensemble_baselines import baseline_file, load_baseline, write_baselines
from pipeline.train.item_vectors import ItemVectors
from pipeline.train.teaching_config import BaselineScores, ContentScores, ItemKNNScores, TransitionScores

ITEMS = 30
HISTORIES = [list(np.random.default_rng(n).integers(1, ITEMS, 3 + n)) for n in range(9)]  # items come again
TRAIN = Sequences.from_lists(HISTORIES)
KNOWN = np.arange(ITEMS) != 4
TEXTS = ItemVectors(np.random.default_rng(0).normal(1, 1, (ITEMS, 6)).astype(np.float32) * KNOWN[:, None], KNOWN)
PIECES = [torch.from_numpy(TRAIN.padded(np.arange(4), 50)), torch.from_numpy(TRAIN.padded(np.arange(4, 9), 50))]
"""Two pieces of their own width, padded on the right."""


def written(tmp_path: Path, config: BaselineScores) -> history_scores.TextScores | LinkScores:
    rows = TrainingRows(np.arange(9), np.arange(9, dtype=np.int32), TRAIN, 50)
    write_baselines([config], TRAIN, TEXTS, 0, TrainingMatrix(rows, ITEMS, 0), tmp_path)
    return load_baseline(config, tmp_path / baseline_file(0))


def dense(votes: Votes) -> Tensor:
    found_NV = torch.zeros(len(votes.counts_N), ITEMS)
    places_K, rows_K, scores_K = votes.cast(0, len(found_NV))
    return found_NV.index_put_((places_K, rows_K), scores_K, accumulate=True)


@pytest.mark.parametrize("config", [
    ContentScores(scale=3.0, components=None, recency_decay=0.3), TransitionScores(scale=2.0, window=1, shrinkage=0),
    ItemKNNScores(scale=2.5, neighbors=7, shrinkage=1.0, recency_decay=0.2), ItemKNNScores(recency_decay=0.0)])
@pytest.mark.parametrize("cells", [1, 2**24])
def test_every_position_is_scored_as_evaluate_would_score_the_history_up_to_it(
        config: BaselineScores, cells: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_scores, "_CELLS_AT_ONCE", cells)
    ends = [(row, stop) for row, history in enumerate(HISTORIES) for stop in range(1, len(history) + 1)]
    prefixes = Sequences.from_lists([HISTORIES[row][:stop] for row, stop in ends])
    own = config.model_dump(include={"recency_decay", "neighbors", *(["shrinkage"] * (config.kind == "item_knn"))})
    no_popularity = {} if config.kind == "content" else {"popularity_backoff": 0}
    settings = EvaluateConfig.model_validate({config.kind: own | no_popularity})
    scorer = fit_baseline(settings, config.kind, TRAIN, ITEMS, TEXTS)
    expected_NV = scorer.scores(scorer.states(prefixes, np.arange(len(prefixes))), 1, ITEMS + 1) * config.scale
    starts = np.cumsum([0, *(piece_BL.shape[1] for piece_BL in PIECES for _ in piece_BL)])  # of each row, flattened
    order = np.random.default_rng(1).permutation(len(ends))
    places_N = torch.tensor([starts[ends[n][0]] + ends[n][1] - 1 for n in order])
    given = written(tmp_path, config)
    found_NV = (dense(given.votes(PIECES, places_N)) if isinstance(given, LinkScores)
                else given.states_NE(PIECES, places_N) @ given.table_VE.T)
    torch.testing.assert_close(found_NV, expected_NV[torch.from_numpy(order)].float(), rtol=1e-4, atol=1e-5)
    assert found_NV.abs().sum() > 1


def test_a_chunks_votes_are_looked_up_alone_and_no_score_is_above_the_bound(tmp_path: Path) -> None:
    given = written(tmp_path, ItemKNNScores(scale=2.0, neighbors=9, shrinkage=0.0))
    assert isinstance(given, LinkScores)
    votes = given.votes(PIECES, torch.arange(sum(piece_BL.numel() for piece_BL in PIECES)))
    whole_NV = dense(votes)
    places_K, rows_K, scores_K = votes.cast(7, 20)
    part_NV = torch.zeros(13, ITEMS).index_put_((places_K, rows_K), scores_K, accumulate=True)
    torch.testing.assert_close(part_NV, whole_NV[7:20])
    assert float(whole_NV.max()) <= votes.bound() * (1 + 1e-6) < 3 * float(whole_NV.max())


def test_a_place_of_padding_and_an_item_without_links_vote_for_nobody() -> None:
    links = Links.of(torch.tensor([0, 1, 1, 1]), torch.tensor([1]), torch.tensor([0.5]))
    assert links.largest_V.tolist() == [0.5, 0, 0]
    given = LinkScores(links, 0.0, last_alone=True, scale=4.0)
    votes = given.votes([torch.tensor([[1, 2, 0]])], torch.tensor([2, 1, 0]))
    assert votes.counts_N.tolist() == [0, 1, 1]
    assert [part.tolist() for part in votes.cast(0, 3)] == [[2], [1], [2.0]]


def test_an_item_that_comes_again_weighs_what_its_last_place_does() -> None:
    weights_LL = prefix_weights_BLL(torch.tensor([[5, 6, 5, 0]]), 1.0)[0]
    expected = [[1, 0, 0, 0], [np.exp(-1), 1, 0, 0], [0, np.exp(-1), 1, 0]]
    np.testing.assert_allclose(weights_LL[:3], expected, rtol=1e-6)


def test_texts_are_narrowed_to_the_directions_in_which_they_differ_most(tmp_path: Path) -> None:
    wide = written(tmp_path, ContentScores(scale=1.0, components=None))
    narrow = written(tmp_path, ContentScores(scale=1.0, components=2))
    assert isinstance(wide, history_scores.TextScores) and isinstance(narrow, history_scores.TextScores)
    assert (wide.table_VE.shape, narrow.table_VE.shape) == ((ITEMS, 6), (ITEMS, 2))
    left, values, _ = np.linalg.svd(wide.table_VE.numpy(), full_matrices=False)
    expected_VE = left[:, :2] * values[:2]
    expected_VE[KNOWN] /= np.linalg.norm(expected_VE[KNOWN], axis=1, keepdims=True)
    np.testing.assert_allclose(narrow.table_VE @ narrow.table_VE.T, expected_VE @ expected_VE.T, atol=1e-4)
    assert not narrow.table_VE[~torch.from_numpy(KNOWN)].any()


def test_sequential_rules_count_near_followers_more_and_trust_rare_items_less() -> None:
    train = Sequences.from_lists([[1, 2, 3, 4, 5], [1, 3], [5]])
    found = following(train, 6, window=2, shrinkage=1.5).toarray()
    assert found[0].tolist() == pytest.approx([0, 1 / 4, 1.5 / 4, 0, 0, 0])  # 2 once, 3 once and two steps on
    assert found[3].tolist() == pytest.approx([0, 0, 0, 0, 1 / 2.5, 0])
    assert not found[4:].any()
