"""SASRec with ``padding_keys`` against what it stands for: rows padded on the left with zero states, nothing masked.

Legend: L positions, D hidden width, M max_length.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import SASRecConfig
from models.sasrec import SASRec
from models.students import build_encoder

CONFIG = SASRecConfig(hidden_dim=8, num_blocks=3, max_length=6, dropout=0.0, padding_keys=True)
NUM_ITEMS = 12


def build(config: SASRecConfig = CONFIG) -> SASRec:
    """A student whose biases count: without them every empty step scores and adds 0."""
    encoder = build_encoder(config, NUM_ITEMS, 0).double().eval()
    assert isinstance(encoder, SASRec)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, generator=generator)
    return encoder


def naive_states_LD(encoder: SASRec, items: list[int]) -> Tensor:
    """One sequence, one head, max_length steps: zeros first, made zero again after every block."""
    empty = encoder.max_length - len(items)
    positions = encoder.position_embedding.weight[list(range(len(items)))[::-1]]
    embedded_LD = encoder.item_embedding.weight[items] * math.sqrt(encoder.hidden_dim) + positions
    hidden_MD = F.pad(embedded_LD, (0, 0, empty, 0))
    for block in encoder.blocks:
        attention = block.attention
        query_MD = attention.query(block.attention_norm(hidden_MD))
        key_MD, value_MD = attention.key_value(hidden_MD).chunk(2, 1)
        mixed = []
        for step in range(encoder.max_length):
            scores = torch.stack([query_MD[step] @ key_MD[k] / math.sqrt(encoder.hidden_dim) for k in range(step + 1)])
            mixed.append((scores.softmax(0)[:, None] * value_MD[: step + 1]).sum(0))
        hidden_MD = block.feed_norm(hidden_MD + attention.output(torch.stack(mixed)))
        hidden_MD = hidden_MD + block.contract(F.relu(block.expand(hidden_MD)))
        hidden_MD = torch.cat([torch.zeros_like(hidden_MD[:empty]), hidden_MD[empty:]])
    return encoder.norm(hidden_MD)[empty:]


@pytest.mark.parametrize("items", [[3], [5, 1, 9], [2, 4, 6, 8, 10], [7, 1, 2, 3, 4, 5]], ids=len)
def test_it_equals_left_padding_without_a_mask(items: list[int]) -> None:
    encoder = build()
    torch.testing.assert_close(encoder(torch.tensor([items])).hidden_BLD[0], naive_states_LD(encoder, items))


def test_rows_of_one_batch_have_their_own_number_of_empty_steps() -> None:
    encoder = build()
    states_BLD = encoder(torch.tensor([[5, 1, 9, 2], [3, 0, 0, 0], [0, 0, 0, 0]])).hidden_BLD
    torch.testing.assert_close(states_BLD[0], naive_states_LD(encoder, [5, 1, 9, 2]))
    torch.testing.assert_close(states_BLD[1, :1], naive_states_LD(encoder, [3]))
    assert torch.isfinite(states_BLD).all()


def test_only_a_full_row_does_not_feel_them() -> None:
    weights = build().state_dict()
    plain = build(CONFIG.model_copy(update={"padding_keys": False}))
    plain.load_state_dict(weights)
    full, short = torch.tensor([[7, 1, 2, 3, 4, 5]]), torch.tensor([[7, 1, 2]])
    torch.testing.assert_close(build()(full).hidden_BLD, plain(full).hidden_BLD)
    assert (build()(short).hidden_BLD - plain(short).hidden_BLD).abs().max() > 0.01


def test_gradients_flow_and_are_finite_in_bf16() -> None:
    encoder = build_encoder(CONFIG, NUM_ITEMS, 0)
    with torch.autocast("cpu", torch.bfloat16):
        encoder(torch.tensor([[5, 1, 9, 2, 6, 7], [3, 0, 0, 0, 0, 0]])).hidden_BLD.float().square().mean().backward()
    gradients = [p.grad for p in encoder.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
