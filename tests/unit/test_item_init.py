"""Item embeddings started from vectors: every student, any module that keeps the protocol, and grown catalogues."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from configs.errors import ConfigError
from models.config import ModelConfig
from models.item_init import item_parameter, place_untrained, start_items
from models.protocols import Encoded, SequenceEncoder, TrainingInputs
from models.students import build_encoder

ITEMS, WIDTH = 30, 8
STUDENTS = [kind(hidden_dim=WIDTH) for kind in get_args(get_args(ModelConfig)[0])]
EVERY = pytest.mark.parametrize("config", STUDENTS, ids=lambda c: c.kind)


def vectors(seed: int = 0) -> Tensor:
    return 3.0 + 7.0 * torch.randn(ITEMS, WIDTH, generator=torch.Generator().manual_seed(seed))


def some_known() -> Tensor:
    known = torch.ones(ITEMS, dtype=torch.bool)
    known[[4, 17]] = False
    return known


@EVERY
def test_known_items_start_from_their_vectors_and_nothing_else_moves(config: ModelConfig) -> None:
    plain, started = build_encoder(config, ITEMS, 0), build_encoder(config, ITEMS, 0)
    known, given = some_known(), vectors()
    assert start_items(started, given, known) == ITEMS - 2
    before, after = plain.item_weights_VD().detach(), started.item_weights_VD().detach()
    assert torch.equal(after[~known], before[~known])
    torch.testing.assert_close(after[known].square().mean(), before[known].square().mean())
    centred = given[known] - given[known].mean(0)
    torch.testing.assert_close(torch.corrcoef(torch.stack([after[known].flatten(), centred.flatten()]))[0, 1],
                               torch.tensor(1.0))
    table = item_parameter(started)
    for name, value in started.state_dict().items():
        same = plain.state_dict()[name]
        assert value.shape == same.shape
        if name != table:
            assert torch.equal(value, same), name
        else:  # padding and special rows are no items
            assert torch.equal(value[0], same[0]) and torch.equal(value[ITEMS + 1 :], same[ITEMS + 1 :])


@EVERY
def test_new_items_are_placed_where_the_trained_ones_say(config: ModelConfig) -> None:
    """Trained embeddings that are a linear image of the vectors: a new item lands on its own image."""
    encoder, given = build_encoder(config, 400, 0), torch.randn(400, WIDTH, generator=torch.Generator().manual_seed(1))
    image = given @ torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(2)) + 0.5
    trained = torch.arange(400) < 350
    with torch.no_grad():
        encoder.item_weights_VD()[trained] = image[trained]
    kept = encoder.item_weights_VD()[trained].detach().clone()
    assert start_items(encoder, given, torch.ones(400, dtype=torch.bool), trained) == 50
    assert torch.equal(encoder.item_weights_VD()[trained], kept)
    placed, wanted = encoder.item_weights_VD()[~trained], image[~trained]
    assert (placed - wanted).norm().item() < 0.05 * wanted.norm().item()


class Foreign(nn.Module):
    """A student of another make: its table has no padding row, and holds the items in its middle."""

    num_items, max_length, hidden_dim = ITEMS, 5, WIDTH

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.everything = nn.Parameter(torch.randn(ITEMS + 9, WIDTH))
        self.scale = scale

    def item_weights_VD(self) -> Tensor:
        rows = self.everything[4 : 4 + ITEMS]
        return rows if self.scale == 1.0 else rows * self.scale

    def training_inputs(self, items_BL: Tensor, users_B: Tensor, mask_seed: int) -> TrainingInputs:
        return TrainingInputs(items_BL, items_BL)

    def forward(self, inputs_BL: Tensor, layer: int | None = None) -> Encoded:
        return Encoded(self.everything[inputs_BL], None)

    def user_states_BD(self, items_BL: Tensor) -> Tensor:
        return self.everything[items_BL[:, -1]]


def test_any_module_that_keeps_the_protocol_can_be_started() -> None:
    foreign = Foreign()
    assert isinstance(foreign, SequenceEncoder)
    before = foreign.everything.detach().clone()
    start_items(foreign, vectors(), torch.ones(ITEMS, dtype=torch.bool))
    changed = (foreign.everything != before).any(1)
    assert changed.nonzero()[:, 0].tolist() == list(range(4, 4 + ITEMS))


def test_what_cannot_be_started_is_refused() -> None:
    everyone = torch.ones(ITEMS, dtype=torch.bool)
    with pytest.raises(ConfigError, match="no view of a parameter"):
        start_items(Foreign(scale=2.0), vectors(), everyone)
    with pytest.raises(ConfigError, match=r"item vectors: got \[30, 5\]; legal: \[30, 8\]"):
        start_items(Foreign(), vectors()[:, :5], everyone)
    with pytest.raises(ConfigError, match="all alike"):
        start_items(Foreign(), torch.ones(ITEMS, WIDTH), everyone)
    broken = vectors()
    broken[3, 3] = torch.nan
    with pytest.raises(ConfigError, match="NaN or Inf"):
        start_items(Foreign(), broken, everyone)
    assert start_items(Foreign(), broken, everyone & False) == 0


def test_untrained_items_are_put_where_the_trained_ones_say_with_their_spread() -> None:
    """Trained rows are a linear image of the vectors plus noise; a regression alone would draw the others to the mean.
    """
    generator = torch.Generator().manual_seed(3)
    given = torch.randn(2000, WIDTH, generator=generator) * 2 + 1
    image = given @ torch.randn(WIDTH, WIDTH, generator=generator) + 4
    table = image + 3 * torch.randn(2000, WIDTH, generator=generator)
    trained, known = torch.arange(2000) % 4 > 0, torch.arange(2000) != 8
    pushed = torch.where(trained.unsqueeze(1), table, -50.0)
    placed, count = place_untrained(pushed, given, known, trained)
    assert count == 499 and torch.equal(placed[trained], table[trained]) and torch.equal(placed[8], pushed[8])
    fresh = ~trained & known
    mean = table[trained].mean(0)
    assert float((placed[fresh] - mean).square().mean()) == pytest.approx(
        float((table[trained] - mean).square().mean()), rel=0.1)
    nearer, _ = place_untrained(pushed, given, known, trained, 0.5)
    torch.testing.assert_close(nearer[fresh] - mean, 0.5 * (placed[fresh] - mean), rtol=1e-4, atol=1e-4)
    assert torch.equal(nearer[~fresh], placed[~fresh])
    wanted, got = image[fresh] - image.mean(0), placed[fresh] - mean
    assert float((wanted * got).sum() / (wanted.norm() * got.norm())) > 0.97


def test_nothing_is_placed_where_all_are_trained_or_nobody_can_say() -> None:
    table, everyone = torch.randn(ITEMS, WIDTH), torch.ones(ITEMS, dtype=torch.bool)
    for known, trained in ((everyone, everyone), (everyone, ~everyone), (~everyone, ~everyone)):
        placed, count = place_untrained(table, vectors(), known, trained)
        assert count == 0 and placed is table
