"""Ranking losses over the catalogue, without the matrix of positions × items.

Legend: N positions with a target, D hidden width, V items, R rows of a chunk.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import RankingLossConfig


class RankingLoss(Protocol):
    """L_model as a sum over positions; the caller divides by the global count."""

    def __call__(self, hidden_ND: Tensor, weights_VD: Tensor, targets_N: Tensor) -> Tensor:
        """fp32 scalar. ``targets_N`` are item ids 1…V; the weights' first row is item 1."""
        ...


class SoftmaxRankingLoss:
    """Full cross-entropy, summed: Σ_i logsumexp_v(h_i·w_v) - h_i·w_target.

    Gradients are made in the forward pass, ``chunk_rows`` positions at a time.
    """

    def __init__(self, chunk_rows: int) -> None:
        self.chunk_rows = chunk_rows

    def __call__(self, hidden_ND: Tensor, weights_VD: Tensor, targets_N: Tensor) -> Tensor:
        hidden_ND, weights_VD = hidden_ND.float(), weights_VD.float()
        if len(hidden_ND) == 0:
            return hidden_ND.sum() + 0 * weights_VD.sum()
        run = fused_softmax if hasattr(F, "linear_cross_entropy") else chunked_softmax
        return run(hidden_ND, weights_VD, targets_N - 1, self.chunk_rows)


def build_ranking_loss(config: RankingLossConfig) -> RankingLoss:
    """The loss that a configuration names."""
    return SoftmaxRankingLoss(config.chunk_rows)


def fused_softmax(hidden_ND: Tensor, weights_VD: Tensor, rows_N: Tensor, chunk_rows: int) -> Tensor:
    """torch's own chunked kernel (torch ≥ 2.13). Its automatic chunks shrink to a few rows: set them here."""
    options = torch.nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=chunk_rows)
    return F.linear_cross_entropy(hidden_ND, weights_VD, rows_N, reduction="sum", options=options)


def chunked_softmax(hidden_ND: Tensor, weights_VD: Tensor, rows_N: Tensor, chunk_rows: int) -> Tensor:
    """The same in plain torch, for versions without the fused kernel."""
    return _ChunkedSoftmax.apply(hidden_ND, weights_VD, rows_N, chunk_rows)  # type: ignore[no-any-return]


class _ChunkedSoftmax(torch.autograd.Function):
    """Σ cross-entropy with both gradients made while a chunk's probabilities are at hand."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weights_VD: Tensor, rows_N: Tensor, chunk_rows: int) -> Tensor:
        loss = hidden_ND.new_zeros(())
        hidden_grad_ND = torch.empty_like(hidden_ND)
        weights_grad_VD = torch.zeros_like(weights_VD)
        for start in range(0, len(hidden_ND), chunk_rows):
            hidden_RD = hidden_ND[start : start + chunk_rows]
            rows_R1 = rows_N[start : start + chunk_rows].unsqueeze(1)
            logits_RV = hidden_RD @ weights_VD.T
            top_R1 = logits_RV.amax(1, keepdim=True)
            right_R1 = logits_RV.gather(1, rows_R1)
            probabilities_RV = logits_RV.sub_(top_R1).exp_()
            total_R1 = probabilities_RV.sum(1, keepdim=True)
            loss += (total_R1.log() + top_R1 - right_R1).sum()
            probabilities_RV.div_(total_R1)
            probabilities_RV.scatter_add_(1, rows_R1, -torch.ones_like(right_R1))
            torch.mm(probabilities_RV, weights_VD, out=hidden_grad_ND[start : start + chunk_rows])
            weights_grad_VD.addmm_(probabilities_RV.T, hidden_RD)
        ctx.save_for_backward(hidden_grad_ND, weights_grad_VD)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None, None]:
        hidden_grad_ND, weights_grad_VD = ctx.saved_tensors
        return hidden_grad_ND * grads[0], weights_grad_VD * grads[0], None, None
