"""A student of somebody else's: its class stays as it is, a subclass speaks the protocol, and what is served stays its
own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.errors import DataError
from models.config import DistillationConfig, InfoNCEDistillation, MSEDistillation, SoftmaxLoss
from models.distilled import DistilledRecommender
from models.protocols import Encoded, SequenceEncoder, TrainingInputs
from models.ranking import rank_users
from models.scoring import EncoderScorer
from models.sequences import Cases, Sequences
from tests.students import MAX_LENGTH, NUM_ITEMS, PROFILE_DIM, batch


class DilatedResidual(nn.Module):
    """A causal convolution that skips steps, as in NextItNet (Yuan et al., WSDM'19)."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.reach = 2 * dilation
        self.conv = nn.Conv1d(channels, channels, kernel_size=3, dilation=dilation)
        self.scale = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.scale(self.conv(F.pad(x.mT, (self.reach, 0))).mT))


class NextItNet(nn.Module):
    """The foreign class: items in, logits out; no padding row, an output layer of its own, its own names."""

    def __init__(self, catalogue: int, channels: int) -> None:
        super().__init__()
        self.lookup = nn.Embedding(catalogue, channels)
        self.residuals = nn.ModuleList(DilatedResidual(channels, dilation) for dilation in (1, 2, 4))
        self.to_items = nn.Linear(channels, catalogue, bias=False)

    def states(self, items: Tensor) -> Tensor:
        x = self.lookup((items - 1).clamp(min=0))
        for residual in self.residuals:
            x = residual(x)
        return x

    def forward(self, items: Tensor) -> Tensor:
        return self.to_items(self.states(items))


class DistilledNextItNet(NextItNet):
    """The same parameters behind ``SequenceEncoder``; the states of block k are caught on their way."""

    num_items, max_length, hidden_dim = NUM_ITEMS, MAX_LENGTH, 8

    def training_inputs(self, items_BL: Tensor, users_B: Tensor, mask_seed: int) -> TrainingInputs:
        targets_BL = items_BL[:, 1:]
        return TrainingInputs(items_BL[:, :-1] * (targets_BL != 0), targets_BL)

    def forward(self, inputs_BL: Tensor, layer: int | None = None) -> Encoded:  # type: ignore[override]
        caught: list[Tensor] = []
        if layer is None:
            return Encoded(self.states(inputs_BL), None)
        hook = self.residuals[layer].register_forward_hook(lambda _, __, output: caught.append(output))
        try:
            return Encoded(self.states(inputs_BL), caught[0])
        finally:
            hook.remove()

    def item_weights_VD(self) -> Tensor:
        return self.to_items.weight

    def user_states_BD(self, items_BL: Tensor) -> Tensor:
        items_BL = items_BL[:, -self.max_length :]
        last_B = ((items_BL != 0).sum(1) - 1).clamp(min=0)
        return self(items_BL).hidden_BLD[torch.arange(len(items_BL)), last_B]


def taught(layer: int, loss: MSEDistillation | InfoNCEDistillation | None = None) -> DistilledRecommender:
    torch.manual_seed(0)
    config = DistillationConfig(loss=loss or MSEDistillation(), layer=layer)
    return DistilledRecommender(DistilledNextItNet(NUM_ITEMS, 8), SoftmaxLoss(), config, PROFILE_DIM, 1, 0)


@pytest.mark.parametrize("loss", [MSEDistillation(), InfoNCEDistillation()], ids=lambda loss: loss.kind)
def test_it_is_distilled_and_what_is_served_is_the_foreign_model(loss: MSEDistillation | InfoNCEDistillation) -> None:
    recommender, foreign = taught(1, loss), NextItNet(NUM_ITEMS, 8)
    assert isinstance(recommender.encoder, SequenceEncoder)
    optimizer = torch.optim.Adam(recommender.parameters(), lr=0.01)
    first = recommender(batch(7, 4, 2, 5), 0.5, beta=True)
    for _ in range(60):
        recommender.zero_grad()
        recommender(batch(7, 4, 2, 5), 0.5, beta=True).total.backward()
        optimizer.step()
    last = recommender(batch(7, 4, 2, 5), 0.5, beta=True)
    assert float(last.ranking) < 0.7 * float(first.ranking)
    assert float(last.distillation) < 0.7 * float(first.distillation)
    served = recommender.encoder.state_dict()
    assert list(served) == list(foreign.state_dict())
    assert all(served[name].shape == value.shape for name, value in foreign.state_dict().items())
    foreign.load_state_dict(served)
    items_BL = torch.tensor([[3, 1, 2]])
    torch.testing.assert_close(foreign(items_BL)[:, -1],
                               recommender.encoder.user_states_BD(items_BL) @ recommender.encoder.item_weights_VD().T)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_gradient_of_distillation_stops_at_its_layer(layer: int) -> None:
    recommender = taught(layer)
    recommender(batch(7, 4, 2, 5), 1.0).total.backward()
    touched = {name.split(".")[0] + "." + name.split(".")[1] for name, p in recommender.encoder.named_parameters()
               if p.grad is not None and p.grad.any()}
    assert touched == {"lookup.weight", *(f"residuals.{k}" for k in range(layer + 1))}


def test_it_is_ranked_like_any_other() -> None:
    encoder = taught(0).encoder
    histories = Sequences.from_lists([[1, 2, 3, 4, 5, 6, 7, 8], [9, 4], [5]])
    cases = Cases(np.arange(3), histories, np.array([11, 12, 13], np.int32))
    ranks = rank_users(EncoderScorer(encoder), cases, top_k=0).rank_unfiltered
    for row, history in enumerate(([3, 4, 5, 6, 7, 8], [9, 4], [5])):
        scores_V = (encoder.user_states_BD(torch.tensor([history])) @ encoder.item_weights_VD().T)[0]
        assert ranks[row] == 1 + (scores_V > scores_V[10 + row]).sum()


class WithoutLayers(DistilledNextItNet):
    """It ignores the layer that it is asked for."""

    def forward(self, inputs_BL: Tensor, layer: int | None = None) -> Encoded:  # type: ignore[override]
        return super().forward(inputs_BL)


def test_an_encoder_without_states_of_the_layer_can_only_be_trained_plain() -> None:
    recommender = DistilledRecommender(WithoutLayers(NUM_ITEMS, 8), SoftmaxLoss(), DistillationConfig(layer=0),
                                       PROFILE_DIM, 1, 0)
    assert recommender(batch(7, 4, 2, 5), 0.0).num_positions == 6 + 3 + 1 + 4
    with pytest.raises(DataError, match=r"train\.distillation\.layer as Encoded\.layer_BLD"):
        recommender(batch(7, 4, 2, 5), 0.5)
