"""Softmax of a target against shared negatives; the gradients are made in the forward pass.

Legend: N positions, D hidden width, X rows of the scoring table, K distinct negatives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.softmax import Precision, matmul_precision


def own_hits(rows_N: Tensor, negatives_K: Tensor) -> tuple[Tensor, Tensor]:
    """Which positions have their own target among the (ascending) negatives, and each position's place there."""
    place_N = torch.searchsorted(negatives_K, rows_N).clamp_(max=max(len(negatives_K) - 1, 0))
    hit_N = negatives_K[place_N] == rows_N
    return hit_N.nonzero().squeeze(1), place_N


def sampled_softmax(hidden_ND: Tensor, weights_XD: Tensor, rows_N: Tensor, negatives_K: Tensor, bias_K: Tensor,
                    precision: Precision = "fp32") -> Tensor:
    """Σ_i log(exp(h_i·w_target) + Σ_k exp(h_i·w_k + b_k)) - h_i·w_target; a negative that is the target is left out.

    Args:
        hidden_ND: fp32 states.
        weights_XD: fp32 scoring vectors.
        rows_N: rows of the targets.
        negatives_K: rows of the negatives, ascending, distinct, K ≥ 1 unless N = 0.
        bias_K: fp32 log weights of the negatives.
        precision: of the matrix products' inputs.
    """
    if len(rows_N) == 0:
        return hidden_ND.sum() + 0 * weights_XD.sum()
    return _SampledSoftmax.apply(  # type: ignore[no-any-return]
        hidden_ND, weights_XD, rows_N, negatives_K, bias_K, precision)


class _SampledSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weights_XD: Tensor, rows_N: Tensor, negatives_K: Tensor, bias_K: Tensor,
                precision: Precision) -> Tensor:
        negative_KD, target_ND = weights_XD.index_select(0, negatives_K), weights_XD.index_select(0, rows_N)
        hit_H, place_N = own_hits(rows_N, negatives_K)
        with matmul_precision(precision, hidden_ND.device):
            scores_NK = torch.addmm(bias_K, hidden_ND, negative_KD.T)
            scores_NK[hit_H, place_N[hit_H]] = -torch.inf
            right_N = (hidden_ND * target_ND).sum(1)
            top_N1 = torch.maximum(scores_NK.amax(1), right_N).unsqueeze(1)
            exp_NK = scores_NK.sub_(top_N1).exp_()
            own_N1 = (right_N.unsqueeze(1) - top_N1).exp_()
            total_N1 = exp_NK.sum(1, keepdim=True) + own_N1
            loss = (total_N1.log() + top_N1).sum() - right_N.sum()
            pull_N1 = own_N1.div_(total_N1).sub_(1)
            hidden_grad_ND = torch.mm(exp_NK, negative_KD).div_(total_N1).addcmul_(pull_N1, target_ND)
            negative_grad_KD = torch.mm(exp_NK.T, hidden_ND / total_N1)
        ctx.save_for_backward(hidden_grad_ND, negative_grad_KD, pull_N1 * hidden_ND, rows_N, negatives_K)
        ctx.num_rows = len(weights_XD)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None, None, None, None]:
        hidden_grad_ND, negative_grad_KD, target_grad_ND, rows_N, negatives_K = ctx.saved_tensors
        weights_grad_XD = hidden_grad_ND.new_zeros(ctx.num_rows, hidden_grad_ND.shape[1])
        weights_grad_XD.index_copy_(0, negatives_K, negative_grad_KD * grads[0])
        weights_grad_XD.index_add_(0, rows_N, target_grad_ND * grads[0])
        return hidden_grad_ND * grads[0], weights_grad_XD, None, None, None, None
