"""The ranking loss against cross-entropy written in loops and against torch's plain one."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import SoftmaxLoss
from models.losses import SoftmaxRankingLoss, build_ranking_loss, chunked_softmax, fused_softmax

Kernel = Callable[[Tensor, Tensor, Tensor, int], Tensor]
HAS_FUSED = hasattr(F, "linear_cross_entropy")
KERNELS = [
    pytest.param(chunked_softmax, id="chunked"),
    pytest.param(fused_softmax, id="fused",
                 marks=pytest.mark.skipif(not HAS_FUSED, reason="this torch has no linear_cross_entropy")),
]


def inputs(rows: int = 53, items: int = 211, width: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """States, an embedding table whose row 0 is padding, 0-based targets."""
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(rows, width, generator=generator)
    table = torch.randn(items + 2, width, generator=generator)
    return hidden_ND, table, torch.randint(items, (rows,), generator=generator)


def run(kernel: Kernel, chunk_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and both gradients, the weights being a slice of the table, the loss scaled as in training."""
    hidden_ND, table, rows_N = inputs()
    hidden_ND.requires_grad_()
    table.requires_grad_()
    loss = kernel(hidden_ND, table[1:-1], rows_N, chunk_rows)
    (loss * 0.7 / len(hidden_ND)).backward()
    assert hidden_ND.grad is not None and table.grad is not None
    return loss.detach(), hidden_ND.grad, table.grad


def plain(hidden_ND: Tensor, weights_VD: Tensor, rows_N: Tensor, chunk_rows: int) -> Tensor:
    return F.cross_entropy(hidden_ND @ weights_VD.T, rows_N, reduction="sum")


@pytest.mark.parametrize("kernel", KERNELS)
def test_value_equals_plain_loops(kernel: Kernel) -> None:
    hidden_ND, table, rows_N = inputs(rows=5, items=7, width=3)
    weights = table[1:-1].tolist()
    expected = 0.0
    for hidden, row in zip(hidden_ND.tolist(), rows_N.tolist(), strict=True):
        scores = [sum(a * b for a, b in zip(hidden, weight, strict=True)) for weight in weights]
        expected += log(sum(exp(score) for score in scores)) - scores[row]
    assert float(kernel(hidden_ND, table[1:-1], rows_N, 2)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("chunk_rows", [1, 8, 53, 128])
def test_value_and_gradients_equal_plain_cross_entropy(kernel: Kernel, chunk_rows: int) -> None:
    for got, expected in zip(run(kernel, chunk_rows), run(plain, 0), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_large_scores_do_not_overflow(kernel: Kernel) -> None:
    hidden_ND, table, rows_N = inputs()
    loss = kernel(hidden_ND * 200, table[1:-1], rows_N, 16)
    torch.testing.assert_close(loss, plain(hidden_ND * 200, table[1:-1], rows_N, 0), rtol=1e-5, atol=1e-2)


def test_targets_are_item_ids_from_one() -> None:
    hidden_ND, table, rows_N = inputs()
    loss = build_ranking_loss(SoftmaxLoss(chunk_rows=16))(hidden_ND, table[1:-1], rows_N + 1)
    torch.testing.assert_close(loss, plain(hidden_ND, table[1:-1], rows_N, 0))


def test_half_precision_states_give_an_fp32_value() -> None:
    hidden_ND, table, rows_N = inputs()
    loss = SoftmaxRankingLoss(16)(hidden_ND.bfloat16(), table[1:-1], rows_N + 1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain(hidden_ND.bfloat16().float(), table[1:-1], rows_N, 0))


def test_no_position_gives_zero_and_zero_gradients() -> None:
    hidden_ND, table, _ = inputs()
    hidden_ND.requires_grad_()
    table.requires_grad_()
    loss = SoftmaxRankingLoss(16)(hidden_ND[:0], table[1:-1], torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert hidden_ND.grad is not None and table.grad is not None
    assert not hidden_ND.grad.any() and not table.grad.any()
