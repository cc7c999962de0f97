"""H_k from the states of a block: eqs. 1-3 over real positions, and the published code's reading."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
import torch

from models.config import AttentionPooling, ExponentialPooling, MeanPooling, PoolingConfig
from models.packing import pack
from models.pooling import Pooling

CONFIGS: list[PoolingConfig] = [MeanPooling(), ExponentialPooling(gamma=0.3), AttentionPooling()]
HIDDEN_BLD = torch.tensor([[[1.0, 2.0], [3.0, 5.0], [9.0, 9.0]]])
REAL_BL = torch.tensor([[True, True, False]])


def make(config: PoolingConfig, hidden_dim: int = 2, pad_to: int | None = None) -> Pooling:
    """A pooling whose attention vector, if any, is not at its even start."""
    pooling = Pooling(config, hidden_dim, pad_to)
    torch.manual_seed(0)
    for parameter in pooling.parameters():
        torch.nn.init.normal_(parameter)
    return pooling


def test_mean_leaves_padding_out() -> None:
    pooled = Pooling(MeanPooling(), 2)(HIDDEN_BLD, REAL_BL)
    assert pooled.tolist() == [[(1 + 3) / 2, (2 + 5) / 2]]


def test_exponential_weights_favour_recent_steps() -> None:
    pooled = Pooling(ExponentialPooling(gamma=1.0), 2)(HIDDEN_BLD, REAL_BL)
    first, second = 1 / (1 + exp(1)), exp(1) / (1 + exp(1))
    torch.testing.assert_close(pooled, torch.tensor([[first * 1 + second * 3, first * 2 + second * 5]]))


def test_attention_is_the_softmax_of_a_linear_score() -> None:
    pooling = make(AttentionPooling())
    assert pooling.attention is not None
    w, b = pooling.attention.weight[0].tolist(), pooling.attention.bias.item()
    scores = [exp(w[0] * h[0] + w[1] * h[1] + b) for h in HIDDEN_BLD[0, :2].tolist()]
    expected = [sum(s * h[d] for s, h in zip(scores, HIDDEN_BLD[0].tolist(), strict=False)) / sum(scores)
                for d in (0, 1)]
    torch.testing.assert_close(pooling(HIDDEN_BLD, REAL_BL), torch.tensor([expected]))


def test_attention_starts_as_the_mean() -> None:
    torch.testing.assert_close(Pooling(AttentionPooling(), 2)(HIDDEN_BLD, REAL_BL),
                               Pooling(MeanPooling(), 2)(HIDDEN_BLD, REAL_BL))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
@pytest.mark.parametrize("pad_to", [None, 8])
def test_width_and_content_of_padding_do_not_matter(config: PoolingConfig, pad_to: int | None) -> None:
    pooling = make(config, 4, pad_to)
    hidden_BLD = torch.randn(3, 5, 4)
    real_BL = torch.arange(5) < torch.tensor([[5], [2], [1]])
    wide_BLD = torch.cat([hidden_BLD, torch.full((3, 2, 4), 1e4)], 1)
    wide_BLD[1, 2:] = -77.0
    wide_real_BL = torch.nn.functional.pad(real_BL, (0, 2))
    torch.testing.assert_close(pooling(wide_BLD, wide_real_BL), pooling(hidden_BLD, real_BL))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
@pytest.mark.parametrize("pad_to", [None, 4])
def test_a_row_of_padding_gives_zeros_and_no_nan_gradient(config: PoolingConfig, pad_to: int | None) -> None:
    pooling = make(config, 4, pad_to)
    hidden_BLD = torch.randn(2, 3, 4, requires_grad=True)
    pooled = pooling(hidden_BLD, torch.tensor([[False] * 3, [True] * 3]))
    assert pooled[0].tolist() == [0.0] * 4
    pooled.sum().backward()
    assert hidden_BLD.grad is not None and torch.isfinite(hidden_BLD.grad).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in pooling.parameters())


def test_upstream_mean_divides_by_the_padded_length() -> None:
    pooled = Pooling(MeanPooling(), 2, pad_to=5)(HIDDEN_BLD, REAL_BL)
    torch.testing.assert_close(pooled, torch.tensor([[(1 + 3) / 5, (2 + 5) / 5]]))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
def test_upstream_equals_left_padding_with_zero_states(config: PoolingConfig) -> None:
    """The published order: zeros first, the softmax over all L positions."""
    pooling = make(config, 4, pad_to=6)
    states_TD = torch.randn(2, 4)
    padded_LD = torch.cat([torch.zeros(4, 4), states_TD])
    if pooling.attention is not None:
        scores_L = pooling.attention(padded_LD).squeeze(1)
    else:
        scores_L = pooling.gamma * torch.arange(6.0)
    expected_D = scores_L.softmax(0) @ padded_LD
    torch.testing.assert_close(pooling(states_TD.unsqueeze(0), torch.ones(1, 2, dtype=torch.bool))[0], expected_D)


def test_upstream_and_paper_agree_without_padding() -> None:
    real_BL = torch.ones(1, 3, dtype=torch.bool)
    for config in CONFIGS:
        torch.testing.assert_close(make(config)(HIDDEN_BLD, real_BL), make(config, pad_to=3)(HIDDEN_BLD, real_BL))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
def test_packed_rows_give_the_same(config: PoolingConfig) -> None:
    pooling = make(config, 4, None)
    lengths = [5, 0, 2, 1, 5, 3]
    hidden_BLD = (3 * torch.randn(len(lengths), 5, 4)).requires_grad_()
    real_BL = torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    packing = pack([np.array(lengths)], [5], torch.device("cpu"))
    flat_XD = torch.cat([hidden_BLD.flatten(0, 1), torch.full((1, 4), 1e4)])  # what stands at padding
    results = []
    for pooled_BD in (pooling(hidden_BLD, real_BL),
                      pooling.packed(flat_XD[packing.source_RW.flatten()], packing, len(lengths))):
        gradient, = torch.autograd.grad(pooled_BD.square().sum(), hidden_BLD)
        results.append((pooled_BD, gradient))
    torch.testing.assert_close(results[0], results[1])
