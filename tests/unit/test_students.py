"""Training inputs of the two objectives, positions, cutting."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from models.base import keep_last
from models.bert4rec import BERT4Rec
from models.config import BERT4RecConfig, SASRecConfig
from models.students import build_encoder
from models.transformer import positions_from_end
from tests.students import BERT4REC, NUM_ITEMS, SASREC, build, rows


def test_the_mask_row_is_served_and_never_scored() -> None:
    encoder = build(BERT4REC)
    assert isinstance(encoder, BERT4Rec) and encoder.mask_id == NUM_ITEMS + 1
    assert encoder.state_dict()["item_embedding.weight"].shape == (NUM_ITEMS + 2, 8)
    assert encoder.item_weights_VD().shape == (NUM_ITEMS, 8)


def test_sasrec_predicts_the_next_item_at_every_step() -> None:
    inputs_BL, targets_BL = build(SASREC).training_inputs(rows([1, 2, 3, 4], [5, 6], [7]), torch.arange(3), 0)
    assert inputs_BL.tolist() == [[1, 2, 3], [5, 0, 0], [0, 0, 0]]
    assert targets_BL.tolist() == [[2, 3, 4], [6, 0, 0], [0, 0, 0]]


def test_sasrec_uses_max_length_plus_one_items_and_cuts_beyond() -> None:
    inputs_BL, targets_BL = build(SASREC).training_inputs(rows(list(range(1, 10)), [1, 2]), torch.arange(2), 0)
    assert inputs_BL.tolist() == [[3, 4, 5, 6, 7, 8], [1, 0, 0, 0, 0, 0]]
    assert targets_BL.tolist() == [[4, 5, 6, 7, 8, 9], [2, 0, 0, 0, 0, 0]]


def test_bert4rec_masks_a_share_and_at_least_one_item() -> None:
    encoder = build(BERT4REC)
    items_BL = torch.randint(1, NUM_ITEMS + 1, (2000, 6), generator=torch.Generator().manual_seed(0))
    items_BL[::2, 1:] = 0
    inputs_BL, targets_BL = encoder.training_inputs(items_BL, torch.arange(2000), mask_seed=5)
    masked_BL = targets_BL != 0
    assert torch.equal(masked_BL, inputs_BL == NUM_ITEMS + 1)
    assert torch.equal(torch.where(masked_BL, targets_BL, inputs_BL), items_BL)
    assert masked_BL.any(1).all() and not masked_BL[items_BL == 0].any()
    none_by_chance = 0.7**6
    assert abs(masked_BL[1::2].double().mean() - (0.3 + none_by_chance / 6)) < 0.02


def test_masks_do_not_depend_on_batch_or_padding_and_change_with_the_seed() -> None:
    encoder = build(BERT4REC)
    users_B, items_BL = torch.arange(50), torch.arange(1, 6).repeat(50, 1)
    together = encoder.training_inputs(items_BL, users_B, mask_seed=1).targets_BL
    padded_BL = torch.nn.functional.pad(items_BL[7:8], (0, 1))
    alone = encoder.training_inputs(padded_BL, users_B[7:8], mask_seed=1).targets_BL
    assert torch.equal(alone[0, :5], together[7])
    assert not torch.equal(encoder.training_inputs(items_BL, users_B, mask_seed=2).targets_BL, together)
    assert len({tuple(row) for row in together.tolist()}) > 5


def test_a_history_of_one_position_fits_bert4rec() -> None:
    encoder = build_encoder(BERT4RecConfig(hidden_dim=4, max_length=1), NUM_ITEMS, 0).eval()
    torch.testing.assert_close(encoder.user_states_BD(rows([3, 4])), encoder(rows([NUM_ITEMS + 1])).hidden_BLD[:, 0])


def test_positions_count_from_the_last_real_item() -> None:
    assert positions_from_end(rows([7, 8, 9], [7])).tolist() == [[2, 1, 0], [0, 0, 0]]


def test_keep_last_cuts_long_rows_only() -> None:
    assert keep_last(rows([1, 2, 3, 4], [5, 6]), 3).tolist() == [[2, 3, 4], [5, 6, 0]]
    assert keep_last(rows([1, 2]), 3).tolist() == [[1, 2]]

@pytest.mark.parametrize(("name", "value"), [("hidden_dim", 10**20), ("num_blocks", 10**6), ("max_length", 10**9)])
def test_sizes_that_no_machine_holds_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValidationError, match="less than or equal to"):
        SASRecConfig.model_validate({name: value})
