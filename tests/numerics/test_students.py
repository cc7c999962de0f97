"""eSASRec's blocks and GRU4Rec's layers against their formulas, one step and one number at a time.

Legend: L positions, D hidden width.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.base import Student
from models.config import ESASRecConfig, GRU4RecConfig, ModelConfig
from models.students import build_encoder

ITEMS = [5, 1, 9, 2, 2]
ESASREC = ESASRecConfig(hidden_dim=6, num_blocks=2, num_heads=2, max_length=7, dropout=0.0, feed_multiple=3)
GRU4REC = GRU4RecConfig(hidden_dim=6, num_blocks=2, state_dim=4, max_length=7, dropout=0.0)


def build(config: ModelConfig) -> Student:
    """In double precision; every bias counts."""
    encoder = build_encoder(config, 12, 0).double().eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in encoder.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter, generator=generator)
    return encoder


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def normed(x: Tensor, norm: nn.Module) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / centred.square().mean(-1, keepdim=True).sqrt() * norm.weight + norm.bias


def ligr_LD(block: nn.Module, hidden_LD: Tensor) -> Tensor:
    """h + σ(gate(h)) ⊙ attention(norm(h)), then h + σ(gate(h)) ⊙ W2(SiLU(W1·norm(h)) ⊙ W3·norm(h))."""
    attention, x_LD = block.attention, normed(hidden_LD, block.attention_norm)
    query_LD, (key_LD, value_LD) = attention.query(x_LD), attention.key_value(x_LD).chunk(2, 1)
    mixed = torch.zeros_like(hidden_LD)
    for head in (slice(0, 3), slice(3, 6)):
        for step in range(len(x_LD)):
            scores = torch.stack([(query_LD[step, head] * key_LD[k, head]).sum() / math.sqrt(3)
                                  for k in range(step + 1)])
            weights = torch.exp(scores) / torch.exp(scores).sum()
            mixed[step, head] = sum(w * value_LD[k, head] for k, w in enumerate(weights))
    gate_LD = sigmoid(hidden_LD @ block.attention_gate.weight.T + block.attention_gate.bias)
    hidden_LD = hidden_LD + gate_LD * attention.output(mixed)
    x_LD = normed(hidden_LD, block.feed_norm)
    first, third = block.expand.weight.chunk(2, 0)
    silu = (x_LD @ first.T) * sigmoid(x_LD @ first.T)
    gate_LD = sigmoid(hidden_LD @ block.feed_gate.weight.T + block.feed_gate.bias)
    return hidden_LD + gate_LD * ((silu * (x_LD @ third.T)) @ block.contract.weight.T)


def test_esasrec() -> None:
    encoder = build(ESASREC)
    positions = encoder.position_embedding.weight[list(range(len(ITEMS)))[::-1]]
    first_LD = ligr_LD(encoder.blocks[0], encoder.item_embedding.weight[ITEMS] * math.sqrt(6) + positions)
    last_LD = ligr_LD(encoder.blocks[1], first_LD)
    encoded = encoder(torch.tensor([[*ITEMS, 0, 0]]), layer=0)
    torch.testing.assert_close(encoded.layer_BLD[0, : len(ITEMS)], first_LD)
    torch.testing.assert_close(encoded.hidden_BLD[0, : len(ITEMS)], normed(last_LD, encoder.norm))


def gru_LD(block: nn.Module, inputs_LD: Tensor) -> Tensor:
    """r, z, n and h' = (1 - z)·n + z·h of every step (Cho et al., 2014), then the map back to D."""
    weights = {name: dict(zip("rzn", parameter.chunk(3), strict=True)) for name, parameter in
               block.gru.named_parameters()}
    state, states = torch.zeros(4, dtype=torch.float64), []
    for x in inputs_LD:
        from_x = {g: weights["weight_ih_l0"][g] @ x + weights["bias_ih_l0"][g] for g in "rzn"}
        from_h = {g: weights["weight_hh_l0"][g] @ state + weights["bias_hh_l0"][g] for g in "rzn"}
        reset, update = sigmoid(from_x["r"] + from_h["r"]), sigmoid(from_x["z"] + from_h["z"])
        new = torch.tanh(from_x["n"] + reset * from_h["n"])
        state = (1 - update) * new + update * state
        states.append(state)
    return torch.stack(states) @ block.project.weight.T + block.project.bias


def test_gru4rec() -> None:
    encoder = build(GRU4REC)
    first_LD = gru_LD(encoder.blocks[0], encoder.item_embedding.weight[ITEMS] * math.sqrt(6))
    encoded = encoder(torch.tensor([[*ITEMS, 0, 0]]), layer=0)
    torch.testing.assert_close(encoded.layer_BLD[0, : len(ITEMS)], first_LD)
    torch.testing.assert_close(encoded.hidden_BLD[0, : len(ITEMS)], gru_LD(encoder.blocks[1], first_LD))


def test_gru4rec_projects_only_where_the_widths_differ() -> None:
    same = build(GRU4REC.model_copy(update={"state_dim": 6}))
    default = build(GRU4REC.model_copy(update={"state_dim": None}))
    assert list(same.state_dict()) == list(default.state_dict())
    assert not any("project" in name for name in same.state_dict())
    assert build(GRU4REC).state_dict()["blocks.1.project.weight"].shape == (6, 4)


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0"])
def test_gates_of_gru4rec_are_drawn_one_by_one(name: str) -> None:
    config = GRU4RecConfig(hidden_dim=64, state_dim=32)
    weight = build_encoder(config, 5, 0).state_dict()[f"blocks.0.gru.{name}"]
    inputs = weight.shape[1]
    bound = math.sqrt(6 / (inputs + 32))
    for gate in weight.chunk(3):
        assert 0.95 * bound < gate.abs().max() <= bound
        assert gate.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
