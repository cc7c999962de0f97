"""Packed rows: every item stands once, little is padded, and no state knows what it shares a row with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models.config import BERT4RecConfig, ESASRecConfig, ModelConfig, SASRecConfig
from models.dropout import Dropout
from models.matmul import ROWS
from models.packing import Packing, pack
from models.students import build_encoder

LENGTHS = st.lists(st.lists(st.integers(0, 150), min_size=1, max_size=40), min_size=1, max_size=3)


def packed(lengths: list[list[int]], widths: list[int] | None = None) -> Packing:
    pieces = [np.array(piece, np.int64) for piece in lengths]
    return pack(pieces, widths or [max(int(piece.max()), 1) for piece in pieces], torch.device("cpu"))


@given(LENGTHS)
def test_every_item_stands_once_beside_its_neighbours(lengths: list[list[int]]) -> None:
    widths = [max(*piece, 1) + 2 for piece in lengths]
    packing = packed(lengths, widths)
    items = [torch.tensor([[100 * row + step + 1 if step < length else 0 for step in range(width)]
                           for row, length in enumerate(piece)]) + 10**6 * place
             for place, (piece, width) in enumerate(zip(lengths, widths, strict=True))]
    real = [torch.tensor([[step < length for step in range(width)] for length in piece])
            for piece, width in zip(lengths, widths, strict=True)]
    flat_X = torch.cat([(x * keep).flatten() for x, keep in zip(items, real, strict=True)])
    rows_RW = packing.pack(flat_X)
    assert sorted(rows_RW[rows_RW > 0].tolist()) == sorted(flat_X[flat_X > 0].tolist())
    assert torch.equal(rows_RW > 0, packing.segments_RW > 0)
    kept_X = torch.cat([keep.flatten() for keep in real])
    assert torch.equal(rows_RW.flatten()[packing.places_X[kept_X]], flat_X[kept_X])
    sequences = [length for piece in lengths for length in piece]
    for segment in packing.segments_RW.unique()[packing.segments_RW.unique() > 0].tolist():
        row, steps = (packing.segments_RW == segment).nonzero(as_tuple=True)
        length = sequences[segment - 1]
        assert row.unique().numel() == 1 and steps.tolist() == list(range(steps[0], steps[0] + length))
        assert packing.from_end_RW[row, steps].tolist() == list(range(length))[::-1]
        assert set(packing.lengths_RW[row, steps].tolist()) == {length}


def test_rows_are_nearly_full() -> None:
    lengths = np.random.default_rng(0).geometric(0.15, 512).clip(1, 50).tolist()
    packing = packed([lengths])
    assert packing.source_RW.shape[1] == ROWS
    assert packing.source_RW.numel() < 1.06 * sum(lengths)


def test_rows_are_as_wide_as_the_longest_sequence_needs() -> None:
    assert packed([[3, 65]]).source_RW.shape == (1, 2 * ROWS)
    assert packed([[0, 0]]).source_RW.shape == (1, ROWS)


@pytest.mark.parametrize("config", [
    SASRecConfig(hidden_dim=8, num_heads=2, max_length=9), BERT4RecConfig(hidden_dim=8, max_length=9),
    SASRecConfig(hidden_dim=8, max_length=9, padding_keys=True), ESASRecConfig(hidden_dim=8, max_length=9)],
    ids=["sasrec", "bert4rec", "padding-keys", "esasrec"])
@pytest.mark.parametrize("training", [False, True])
def test_states_are_those_of_the_sequence_alone(config: ModelConfig, training: bool, monkeypatch: pytest.MonkeyPatch
                                                ) -> None:
    monkeypatch.setattr(Dropout, "forward", lambda self, x: x)  # training computes differently, not something else
    lengths = [1, 9, 4, 9, 2, 7, 8, 9, 9, 9, 3]
    generator = torch.Generator().manual_seed(0)
    padded_BL = torch.zeros(len(lengths), 9, dtype=torch.int64)
    for row, length in enumerate(lengths):
        padded_BL[row, :length] = torch.randint(1, 21, (length,), generator=generator)
    encoder = build_encoder(config, 20, 0)
    assert isinstance(encoder, nn.Module)
    packing = packed([lengths], [9])
    found = encoder.train(training)(packing.pack(padded_BL.flatten()), 0, packing)
    encoder.eval()
    real_X = (padded_BL != 0).flatten()
    for mine, row in zip(found, zip(*(encoder(padded_BL[row : row + 1, :length], 0)
                                      for row, length in enumerate(lengths)), strict=True), strict=True):
        alone_XD = torch.cat([states.flatten(0, 1) for states in row])
        torch.testing.assert_close(mine.flatten(0, 1)[packing.places_X[real_X]], alone_XD, rtol=1e-4, atol=1e-5)
