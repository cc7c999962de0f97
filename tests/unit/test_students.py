"""SASRec and BERT4Rec: initial parameters, training inputs, what a state may depend on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from configs.errors import ConfigError, DataError
from models.bert4rec import BERT4Rec
from models.config import BERT4RecConfig, ModelConfig, SASRecConfig
from models.protocols import SequenceEncoder
from models.sasrec import SASRec
from models.students import build_encoder
from models.transformer import keep_last, positions_from_end

SASREC = SASRecConfig(hidden_dim=8, num_heads=2, max_length=6, dropout=0.0)
BERT4REC = BERT4RecConfig(hidden_dim=8, num_heads=2, max_length=6, dropout=0.0, mask_probability=0.3)
BOTH = pytest.mark.parametrize("config", [SASREC, BERT4REC], ids=lambda c: c.kind)
NUM_ITEMS = 20


def build(config: ModelConfig, seed: int = 0) -> SASRec | BERT4Rec:
    return build_encoder(config, NUM_ITEMS, seed).eval()


def rows(*lists: list[int], width: int | None = None) -> Tensor:
    """Right-padded item ids."""
    width = width or max(map(len, lists))
    return torch.tensor([row + [0] * (width - len(row)) for row in lists])


@BOTH
def test_initial_parameters_are_a_function_of_the_arguments(config: ModelConfig) -> None:
    torch.manual_seed(1)
    first = build(config).state_dict()
    torch.manual_seed(2)
    second, other = build(config).state_dict(), build(config, seed=1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["item_embedding.weight"], other["item_embedding.weight"])


@BOTH
def test_building_leaves_the_global_random_state_alone(config: ModelConfig) -> None:
    before = torch.get_rng_state()
    build(config)
    assert torch.equal(torch.get_rng_state(), before)


@BOTH
def test_students_satisfy_the_protocol(config: ModelConfig) -> None:
    encoder = build(config)
    assert isinstance(encoder, SequenceEncoder)
    assert (encoder.num_items, encoder.max_length, encoder.hidden_dim) == (NUM_ITEMS, 6, 8)


@BOTH
def test_item_weights_are_rows_1_to_n_of_the_embedding_table(config: ModelConfig) -> None:
    encoder = build(config)
    weights_VD, table = encoder.item_weights_VD(), encoder.state_dict()["item_embedding.weight"]
    assert weights_VD.shape == (NUM_ITEMS, 8)
    assert weights_VD.data_ptr() == table[1:].data_ptr() and weights_VD.is_contiguous()
    assert table[0].tolist() == [0.0] * 8


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


def test_rows_of_one_item_have_no_target_and_keep_a_column() -> None:
    inputs_BL, targets_BL = build(SASREC).training_inputs(rows([3], [4]), torch.arange(2), 0)
    assert inputs_BL.tolist() == targets_BL.tolist() == [[0], [0]]


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


def test_sasrec_states_do_not_see_later_items() -> None:
    encoder = build(SASREC)
    first, second = encoder(rows([1, 2, 3, 4])).hidden_BLD, encoder(rows([1, 2, 9, 8])).hidden_BLD
    torch.testing.assert_close(first[:, :2], second[:, :2])
    assert (first[:, 2:] - second[:, 2:]).abs().amin(2).gt(0).any()


def test_bert4rec_states_see_both_sides() -> None:
    encoder = build(BERT4REC)
    first, second = encoder(rows([1, 2, 3, 4])).hidden_BLD, encoder(rows([1, 2, 3, 9])).hidden_BLD
    assert (first[:, 0] - second[:, 0]).abs().max() > 1e-4


@BOTH
def test_states_depend_on_the_own_sequence_alone(config: ModelConfig) -> None:
    encoder = build(config)
    alone = encoder(rows([3, 1, 2]), layer=0)
    among = encoder(rows([5, 6, 7, 8, 9], [3, 1, 2]), layer=0)
    assert alone.layer_BLD is not None and among.layer_BLD is not None
    torch.testing.assert_close(among.hidden_BLD[1, :3], alone.hidden_BLD[0])
    torch.testing.assert_close(among.layer_BLD[1, :3], alone.layer_BLD[0])


@BOTH
def test_layer_k_is_the_output_of_block_k(config: ModelConfig) -> None:
    encoder = build(config)
    last = encoder(rows([3, 1, 2]), layer=1)
    assert last.layer_BLD is not None
    torch.testing.assert_close(encoder.norm(last.layer_BLD), last.hidden_BLD)
    first = encoder(rows([3, 1, 2]), layer=0).layer_BLD
    assert first is not None and not torch.allclose(first, last.layer_BLD)
    assert encoder(rows([3, 1, 2])).layer_BLD is None


@BOTH
def test_user_state_takes_the_most_recent_items_whatever_the_width(config: ModelConfig) -> None:
    encoder = build(config)
    history = [4, 9, 2, 7, 5, 6, 1, 8]
    states_BD = encoder.user_states_BD(rows(history, [3], width=12))
    torch.testing.assert_close(states_BD[0], encoder.user_states_BD(rows(history[-6:]))[0])
    torch.testing.assert_close(states_BD[1], encoder.user_states_BD(rows([3]))[0])


def test_sasrec_user_state_is_the_last_real_position() -> None:
    encoder = build(SASREC)
    torch.testing.assert_close(encoder.user_states_BD(rows([4, 5, 0], [1, 2, 3])),
                               torch.stack([encoder(rows([4, 5])).hidden_BLD[0, 1],
                                            encoder(rows([1, 2, 3])).hidden_BLD[0, 2]]))


def test_bert4rec_user_state_is_a_mask_behind_the_history() -> None:
    encoder = build(BERT4REC)
    mask = NUM_ITEMS + 1
    torch.testing.assert_close(encoder.user_states_BD(rows([4, 5], [1, 2, 3, 4, 5, 6])),
                               torch.stack([encoder(rows([4, 5, mask])).hidden_BLD[0, 2],
                                            encoder(rows([2, 3, 4, 5, 6, mask])).hidden_BLD[0, 5]]))


@BOTH
def test_empty_histories_and_empty_batches_are_finite(config: ModelConfig) -> None:
    encoder = build(config)
    assert torch.isfinite(encoder.user_states_BD(torch.zeros(2, 3, dtype=torch.long))).all()
    assert torch.isfinite(encoder.user_states_BD(torch.zeros(2, 0, dtype=torch.long))).all()
    assert encoder(torch.zeros(0, 3, dtype=torch.long)).hidden_BLD.shape == (0, 3, 8)


def test_a_history_of_one_position_fits_bert4rec() -> None:
    encoder = build_encoder(BERT4RecConfig(hidden_dim=4, max_length=1), NUM_ITEMS, 0).eval()
    torch.testing.assert_close(encoder.user_states_BD(rows([3, 4])), encoder(rows([NUM_ITEMS + 1])).hidden_BLD[:, 0])


def test_dropout_acts_in_training_alone() -> None:
    encoder = build_encoder(SASREC.model_copy(update={"dropout": 0.5}), NUM_ITEMS, 0)
    first, second = encoder(rows([1, 2, 3])).hidden_BLD, encoder(rows([1, 2, 3])).hidden_BLD
    assert not torch.equal(first, second)
    encoder.eval()
    assert torch.equal(encoder(rows([1, 2, 3])).hidden_BLD, encoder(rows([1, 2, 3])).hidden_BLD)


def test_positions_count_from_the_last_real_item() -> None:
    assert positions_from_end(rows([7, 8, 9], [7])).tolist() == [[2, 1, 0], [0, 0, 0]]


def test_keep_last_cuts_long_rows_only() -> None:
    assert keep_last(rows([1, 2, 3, 4], [5, 6]), 3).tolist() == [[2, 3, 4], [5, 6, 0]]
    assert keep_last(rows([1, 2]), 3).tolist() == [[1, 2]]


@BOTH
def test_bad_sizes_are_named(config: ModelConfig) -> None:
    with pytest.raises(DataError, match="max_length=6"):
        build(config)(torch.ones(1, 7, dtype=torch.long))
    with pytest.raises(ConfigError, match="num_items"):
        build_encoder(config, 0, 0)
