"""Softmax of a target against shared negatives; the gradients are made in the forward pass.

Legend: N positions, D hidden width, X rows of the scoring table, K distinct negatives.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.matmul import Precision, factor, padded, product, rounding
from models.softmax import BITS


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
        precision: of the matrix products' factors, as in ``chunked_softmax``.
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
        num_rows, num_negatives = len(rows_N), len(negatives_K)
        factor_KD, factor_ND = (factor(padded(rows_XD), precision) for rows_XD in (negative_KD, hidden_ND * BITS))
        real = slice(num_negatives), slice(num_rows)
        with rounding(precision):
            # In powers of 2, and negatives as rows: so all three products read the scores as they lie.
            wide_KN = product(factor_KD, factor_ND)
            wide_KN[num_negatives:] = -torch.inf
            scores_KN = wide_KN[real]
            scores_KN += (bias_K * BITS).unsqueeze(1)
            scores_KN[place_N[hit_H], hit_H] = -torch.inf
            right_N = (hidden_ND * target_ND).sum(1).mul_(BITS)
            top_N = torch.maximum(scores_KN.amax(0), right_N)
            wide_KN -= F.pad(top_N, (0, wide_KN.shape[1] - num_rows))
            exp_KN = wide_KN.exp2_()
            own_N = (right_N - top_N).exp2_()
            total_N = exp_KN.sum(0)[:num_rows] + own_N
            loss = (total_N.log() + (top_N - right_N) / BITS).sum()
            pull_N1 = own_N.div_(total_N).sub_(1).unsqueeze(1)
            factor_KN = factor(exp_KN, precision)
            hidden_grad_DN = product(factor_KD.T.contiguous(), factor_KN.T)
            share_ND = factor(padded(hidden_ND / total_N.unsqueeze(1)), precision)
            negative_grad_KD = product(factor_KN, share_ND.T)[:num_negatives]
        hidden_grad_ND = hidden_grad_DN.T[:num_rows] / total_N.unsqueeze(1)
        hidden_grad_ND.addcmul_(pull_N1, target_ND)
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
