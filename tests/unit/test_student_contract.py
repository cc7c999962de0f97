"""What every student must satisfy, whatever is inside: one suite, all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from configs.errors import ConfigError, DataError
from models.base import Student
from models.config import DistillationConfig, ModelConfig, MSEDistillation, SoftmaxLoss
from models.distilled import DistilledRecommender, LossTerms
from models.protocols import Encoded, SequenceEncoder
from models.students import STUDENTS, build_encoder
from tests.students import (
    BERT4REC,
    MAX_LENGTH,
    NUM_ITEMS,
    PROFILE_DIM,
    batch,
    build,
    every_causal_student,
    every_student,
    rows,
)

LAYERS = pytest.mark.parametrize("layer", [0, 1, 2])


def distilled(encoder: Student, layer: int = 1) -> DistilledRecommender:
    config = DistillationConfig(loss=MSEDistillation(), layer=layer)
    return DistilledRecommender(encoder, SoftmaxLoss(chunk_rows=4), config, PROFILE_DIM, 1, 0)


def layer_BLD(encoded: Encoded) -> Tensor:
    assert encoded.layer_BLD is not None
    return encoded.layer_BLD


def gradients(recommender: DistilledRecommender, terms: LossTerms) -> dict[str, Tensor]:
    recommender.zero_grad(set_to_none=True)
    terms.total.backward()
    missing = [name for name, p in recommender.named_parameters() if p.grad is None]
    assert not missing, "DDP would wait for these for ever"
    return {name: p.grad for name, p in recommender.named_parameters() if p.grad is not None}


def test_every_variant_of_the_configuration_has_a_student() -> None:
    union, _ = get_args(ModelConfig)
    assert set(get_args(union)) == set(STUDENTS)


@every_student
def test_it_satisfies_the_protocol(config: ModelConfig) -> None:
    encoder = build(config)
    assert isinstance(encoder, SequenceEncoder)
    assert (encoder.num_items, encoder.max_length, encoder.hidden_dim) == (NUM_ITEMS, MAX_LENGTH, 8)


@every_student
def test_parameters_are_a_function_of_the_seed_alone(config: ModelConfig) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build(config).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, other = build(config).state_dict(), build(config, seed=1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    matrices = [name for name in first if first[name].ndim == 2]
    assert not any(torch.equal(first[name], other[name]) for name in matrices)
    assert all(first[name].isfinite().all() and first[name].any() for name in matrices)


@every_student
def test_item_weights_are_rows_1_to_n_of_the_embedding_table(config: ModelConfig) -> None:
    encoder = build(config)
    weights_VD, table = encoder.item_weights_VD(), encoder.state_dict()["item_embedding.weight"]
    assert weights_VD.shape == (NUM_ITEMS, 8)
    assert weights_VD.data_ptr() == table[1:].data_ptr() and weights_VD.is_contiguous()
    assert table[0].tolist() == [0.0] * 8


@every_student
def test_states_are_those_of_the_sequence_without_any_padding(config: ModelConfig) -> None:
    encoder = build(config)
    alone = encoder(rows([3, 1, 2]), layer=0)
    among = encoder(rows([5, 6, 7, 8, 9], [3, 1, 2], [4], []), layer=0)
    torch.testing.assert_close(among.hidden_BLD[1, :3], alone.hidden_BLD[0])
    torch.testing.assert_close(layer_BLD(among)[1, :3], layer_BLD(alone)[0])


@every_student
def test_the_loss_does_not_depend_on_the_width_of_the_padding(config: ModelConfig) -> None:
    recommender, narrow = distilled(build(config)), batch(4, 2, 3)
    wide = replace(narrow, items_BL=nn.functional.pad(narrow.items_BL, (0, 3)))
    first, second = recommender(narrow, 0.4, mask_seed=1), recommender(wide, 0.4, mask_seed=1)
    torch.testing.assert_close(first.ranking, second.ranking)
    torch.testing.assert_close(first.distillation, second.distillation)
    assert first.num_positions == second.num_positions


@every_causal_student
@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_later_item_changes_no_earlier_state(config: ModelConfig, step: int) -> None:
    encoder, items = build(config), [1, 2, 3, 4, 5, 6]
    changed = [*items[:step], 17, *items[step + 1 :]]
    first, second = encoder(rows(items), layer=1), encoder(rows(changed), layer=1)
    for one, other in ((first.hidden_BLD, second.hidden_BLD), (layer_BLD(first), layer_BLD(second))):
        torch.testing.assert_close(one[:, :step], other[:, :step])
        assert (one[0, step:] - other[0, step:]).abs().amax(1).gt(1e-6).all()


def test_bert4rec_alone_sees_both_sides() -> None:
    encoder = build(BERT4REC)
    first, second = encoder(rows([1, 2, 3, 4])).hidden_BLD, encoder(rows([1, 2, 3, 9])).hidden_BLD
    assert (first[:, 0] - second[:, 0]).abs().max() > 1e-4


@every_student
@LAYERS
def test_layer_k_is_what_block_k_returned(config: ModelConfig, layer: int) -> None:
    encoder, returned = build(config), []
    encoder.get_submodule(f"blocks.{layer}").register_forward_hook(lambda _, __, output: returned.append(output))
    encoded = encoder(rows([3, 1, 2], [5]), layer=layer)
    assert layer_BLD(encoded) is returned[0]
    assert layer_BLD(encoded).shape == encoded.hidden_BLD.shape == (2, 3, 8)
    assert encoder(rows([3, 1, 2])).layer_BLD is None


@every_student
@LAYERS
def test_distillation_reaches_the_items_and_blocks_up_to_k_and_nothing_above(config: ModelConfig, layer: int) -> None:
    recommender = distilled(build(config), layer)
    grads = gradients(recommender, recommender(batch(7, 4, 2, 5), alpha=1.0))
    above = ("encoder.norm.", *(f"encoder.blocks.{k}." for k in range(layer + 1, 3)))
    student = [name for name in grads if name.startswith("encoder.")]
    assert [name for name in student if name.startswith(above) and grads[name].any()] == []
    below = [name for name in student if not name.startswith(above)]
    assert "encoder.item_embedding.weight" in below
    assert [name for name in below if grads[name].ndim == 2 and not grads[name].any()] == []
    assert grads["head.projection.weight"].any()


@every_student
def test_distillation_leaves_the_served_parameters_as_they_are(config: ModelConfig) -> None:
    plain, taught = build(config).state_dict(), distilled(build(config))
    assert list(plain) == list(taught.encoder.state_dict())
    assert all(torch.equal(plain[name], value) for name, value in taught.encoder.state_dict().items())
    optimizer = torch.optim.Adam(taught.parameters(), lr=0.01)
    gradients(taught, taught(batch(7, 4, 2, 5), 0.5))
    optimizer.step()
    served = taught.encoder.state_dict()
    assert {name: value.shape for name, value in served.items()} == {name: v.shape for name, v in plain.items()}
    fresh = build(config, seed=9)
    fresh.load_state_dict(served)
    items_BL = rows([3, 1, 2])
    torch.testing.assert_close(fresh.user_states_BD(items_BL), taught.encoder.user_states_BD(items_BL))


@every_student
def test_renaming_the_items_changes_nothing(config: ModelConfig) -> None:
    encoder, other, data = build(config), build(config, seed=4), batch(7, 4, 2, 1, 5)
    name_V = torch.cat([torch.zeros(1, dtype=torch.int64),
                        1 + torch.randperm(NUM_ITEMS, generator=torch.Generator().manual_seed(2))])
    weights = encoder.state_dict()
    table_VD = weights["item_embedding.weight"].clone()
    table_VD[name_V] = weights["item_embedding.weight"][: NUM_ITEMS + 1]
    other.load_state_dict({**weights, "item_embedding.weight": table_VD})
    renamed = replace(data, items_BL=name_V[data.items_BL])
    first, second = distilled(encoder)(data, 0.4, mask_seed=1), distilled(other)(renamed, 0.4, mask_seed=1)
    torch.testing.assert_close(first.total, second.total)
    scores_BV = encoder.user_states_BD(data.items_BL) @ encoder.item_weights_VD().T
    renamed_BV = other.user_states_BD(renamed.items_BL) @ other.item_weights_VD().T
    torch.testing.assert_close(renamed_BV[:, name_V[1:] - 1], scores_BV)


@every_student
def test_rows_of_one_item(config: ModelConfig) -> None:
    encoder = build(config)
    inputs_BL, targets_BL = encoder.training_inputs(rows([3], [4]), torch.arange(2), 0)
    assert inputs_BL.shape == targets_BL.shape == (2, 1)
    assert targets_BL.tolist() == ([[3], [4]] if config is BERT4REC else [[0], [0]])
    states_BD = encoder.user_states_BD(rows([3], [4]))
    assert states_BD.isfinite().all() and not torch.allclose(states_BD[0], states_BD[1])
    grads = gradients(recommender := distilled(encoder), recommender(batch(1, 1), 0.5))
    assert all(grad.isfinite().all() for grad in grads.values())


@every_student
def test_rows_beyond_max_length_are_cut_to_the_most_recent_items(config: ModelConfig) -> None:
    encoder, users_B = build(config), torch.arange(2)
    long_BL = rows(list(range(1, 13)), [1, 2])
    just_BL = rows(list(range(12 - MAX_LENGTH, 13)), [1, 2])
    assert just_BL.shape[1] == MAX_LENGTH + 1
    inputs_BL, targets_BL = encoder.training_inputs(just_BL, users_B, 5)
    assert inputs_BL.shape == targets_BL.shape == (2, MAX_LENGTH)
    if config is not BERT4REC:
        assert inputs_BL[0].tolist() == list(range(6, 12)) and targets_BL[0].tolist() == list(range(7, 13))
    for got, expected in zip(encoder.training_inputs(long_BL, users_B, 5), (inputs_BL, targets_BL), strict=True):
        assert torch.equal(got, expected)
    assert encoder(inputs_BL).hidden_BLD.isfinite().all()
    torch.testing.assert_close(encoder.user_states_BD(long_BL), encoder.user_states_BD(just_BL))
    torch.testing.assert_close(encoder.user_states_BD(just_BL)[:1], encoder.user_states_BD(just_BL[:1, 1:]))


@every_student
def test_rows_of_padding_alone_teach_nothing_and_break_nothing(config: ModelConfig) -> None:
    recommender, data = distilled(build(config)), batch(5, 3)
    empty = replace(data, items_BL=torch.cat([data.items_BL, torch.zeros(1, 5, dtype=torch.int64)]),
                    users_B=torch.arange(3) + 100, profiled_BA=torch.ones(3, 1, dtype=torch.bool),
                    profiles_BAP=torch.ones(3, 1, PROFILE_DIM).index_copy(0, torch.arange(2), data.profiles_BAP))
    first, second = recommender(data, 0.4, mask_seed=1), recommender(empty, 0.4, mask_seed=1)
    assert (first.num_positions, first.num_profiled) == (second.num_positions, second.num_profiled)
    torch.testing.assert_close(first.total, second.total)
    assert all(grad.isfinite().all() for grad in gradients(recommender, second).values())
    assert recommender.encoder.user_states_BD(torch.zeros(2, 3, dtype=torch.int64)).isfinite().all()
    assert recommender.encoder.user_states_BD(torch.zeros(2, 0, dtype=torch.int64)).isfinite().all()


@every_student
def test_a_rank_without_rows_takes_part(config: ModelConfig) -> None:
    data = batch(5, 3)
    assert data.profiles_BAP is not None and data.profiled_BA is not None
    none = replace(data, users_B=data.users_B[:0], items_BL=data.items_BL[:0], profiles_BAP=data.profiles_BAP[:0],
                   profiled_BA=data.profiled_BA[:0])
    terms = (recommender := distilled(build(config)))(none, 0.4, beta=True)
    assert (terms.num_positions, terms.num_profiled, float(terms.ranking)) == (0, 0, 0.0)
    assert not any(grad.any() for grad in gradients(recommender, terms).values())
    assert recommender.encoder(torch.zeros(0, 3, dtype=torch.long)).hidden_BLD.shape == (0, 3, 8)


@every_student
def test_the_user_state_scores_the_next_item_from_the_end_of_the_row(config: ModelConfig) -> None:
    encoder = build(config)
    states_BD = encoder.user_states_BD(rows([4, 5], [1, 2, 3], width=5))
    mask = [NUM_ITEMS + 1] if config is BERT4REC else []
    for row, items in enumerate(([4, 5], [1, 2, 3])):
        torch.testing.assert_close(states_BD[row], encoder(rows(items + mask)).hidden_BLD[0, -1])


@every_student
def test_the_last_states_are_those_of_all_positions(config: ModelConfig) -> None:
    encoder = build(config)
    inputs_BL = rows([3, 4, 5], [6], [1, 2, 3, 4, 5, 6], [7, 8], [])
    hidden_BLD = encoder(inputs_BL).hidden_BLD
    torch.testing.assert_close(encoder.last_states_BD(inputs_BL)[:4], hidden_BLD[[0, 1, 2, 3], [2, 0, 5, 1]])
    assert encoder.last_states_BD(inputs_BL).isfinite().all()


@every_student
def test_dropout_acts_in_training_alone(config: ModelConfig) -> None:
    encoder, items_BL = build_encoder(config.model_copy(update={"dropout": 0.5}), NUM_ITEMS, 0), rows([1, 2, 3])
    assert not torch.equal(encoder(items_BL).hidden_BLD, encoder(items_BL).hidden_BLD)
    encoder.eval()
    torch.testing.assert_close(encoder(items_BL).hidden_BLD, build(config)(items_BL).hidden_BLD, rtol=0, atol=0)


@every_student
def test_autocast_changes_the_losses_little(config: ModelConfig) -> None:
    recommender = distilled(build(config))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = recommender(batch(7, 4, 2, 5), 0.4, beta=True)
    exact = recommender(batch(7, 4, 2, 5), 0.4, beta=True)
    assert terms.ranking.dtype == terms.distillation.dtype == torch.float32
    assert float(terms.ranking) == pytest.approx(float(exact.ranking), rel=2e-2)
    assert all(grad.isfinite().all() for grad in gradients(recommender, terms).values())


@every_student
def test_it_learns_a_cycle(config: ModelConfig) -> None:
    encoder = build(config)
    recommender = DistilledRecommender(encoder, SoftmaxLoss(), None, 0, 0, 0)
    optimizer = torch.optim.Adam(recommender.parameters(), lr=0.02)
    starts_B = torch.arange(NUM_ITEMS).unsqueeze(1)
    data = replace(batch(1), items_BL=1 + (starts_B + torch.arange(MAX_LENGTH + 1)) % NUM_ITEMS,
                   users_B=torch.arange(NUM_ITEMS))
    for step in range(240 if config is BERT4REC else 80):
        gradients(recommender, recommender(data, 0.0, mask_seed=step))
        optimizer.step()
    found_B = (encoder.user_states_BD(data.items_BL[:, :-1]) @ encoder.item_weights_VD().T).argmax(1) + 1
    assert (found_B == data.items_BL[:, -1]).float().mean() > 0.6  # by chance 0.05


@every_student
def test_bad_sizes_are_named(config: ModelConfig) -> None:
    with pytest.raises(DataError, match=f"max_length={MAX_LENGTH}"):
        build(config)(torch.ones(1, MAX_LENGTH + 1, dtype=torch.long))
    with pytest.raises(ConfigError, match="num_items"):
        build_encoder(config, 0, 0)
