"""Batches cut into pieces of their own width: nothing is lost, little is padded, the loss stays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.config import (
    BERT4RecConfig,
    DistillationConfig,
    ESASRecConfig,
    GRU4RecConfig,
    SASRecConfig,
    SoftmaxLoss,
)
from models.distilled import DistilledRecommender
from models.ragged import offsets_of
from models.sequences import MIN_SAVED, Batch, Piece, Sequences, pieces
from models.students import build_encoder
from pipeline.store.arrow import row_lengths


@given(st.lists(st.integers(0, 60), max_size=400).map(sorted))
def test_pieces_hold_every_row_and_its_items(lengths: list[int]) -> None:
    found = pieces(np.array(lengths, np.int64))
    assert sum(piece.rows for piece in found) == len(lengths)
    ends = np.cumsum([piece.rows for piece in found])
    assert [piece.width for piece in found] == [max(lengths[end - 1], 1) for end in ends]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=400).map(sorted))
def test_no_further_cut_would_pay(lengths: list[int]) -> None:
    start = 0
    for piece in pieces(np.array(lengths, np.int64)):
        rows = lengths[start : start + piece.rows]
        assert all((at + 1) * (piece.width - rows[at]) < MIN_SAVED for at in range(len(rows) - 1))
        start += piece.rows


def test_many_short_rows_and_a_long_one() -> None:
    assert pieces(np.array([5] * 100 + [50])) == (Piece(100, 5), Piece(1, 50))
    assert pieces(np.array([5] * 4 + [50])) == (Piece(5, 50),)
    assert pieces(np.zeros(0, np.int64)) == ()


def test_pieces_change_neither_losses_nor_gradients() -> None:
    rng = np.random.default_rng(0)
    lengths = np.sort(rng.integers(1, 12, 40))
    sequences = Sequences.from_lists([rng.integers(1, 31, n).tolist() for n in lengths])
    items_BL = torch.from_numpy(sequences.padded(np.arange(40), 11))
    profiles, profiled = torch.randn(40, 1, 8), torch.rand(40, 1) < 0.7
    whole = Batch(torch.arange(40), items_BL, profiles, profiled)
    cut = Batch(whole.users_B, whole.items_BL, profiles, profiled, (Piece(25, int(lengths[24])), Piece(15, 11)))
    assert [tuple(items.shape) for items, _ in cut.split()] == [(25, lengths[24]), (15, 11)]
    for config in (SASRecConfig(hidden_dim=8, dropout=0, max_length=10),
                   BERT4RecConfig(hidden_dim=8, dropout=0, max_length=11),
                   ESASRecConfig(hidden_dim=8, dropout=0, max_length=10),
                   GRU4RecConfig(hidden_dim=8, dropout=0, max_length=10, state_dim=12)):
        model = DistilledRecommender(build_encoder(config, 30, 0), SoftmaxLoss(), DistillationConfig(), 8, 1, 0)
        results = []
        for batch in (whole, cut):
            model.zero_grad()
            terms = model(batch, alpha=0.4, beta=True, mask_seed=3)
            terms.total.backward()
            results.append((terms, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
        (one, one_grads), (two, two_grads) = results
        assert one.num_positions == two.num_positions and one.num_profiled == two.num_profiled > 0
        torch.testing.assert_close(one.total, two.total)
        torch.testing.assert_close(one_grads, two_grads, rtol=1e-4, atol=1e-6)


def test_rows_of_different_lengths() -> None:
    assert offsets_of([2, 0, 3]).tolist() == [0, 2, 2, 5]
    assert offsets_of(np.array([2], np.int32)).dtype == np.int64 and offsets_of([]).tolist() == [0]


@pytest.mark.parametrize("lists", [
    pa.array([[1, 2], None, []]),
    pa.chunked_array([pa.array([[1, 2]]), pa.array([None, []], pa.list_(pa.int64()))])])
def test_a_null_list_has_no_entries(lists: pa.Array | pa.ChunkedArray) -> None:
    assert row_lengths(lists).tolist() == [2, 0, 0] and row_lengths(lists[1:]).tolist() == [0, 0]
