"""Ranking losses L_model, each as a sum over positions: the caller divides by the global number of positions.

Legend: N positions with a target, D hidden width, X rows of a scoring table, K distinct shared negatives.
"""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from models.config import GBCELoss, RankingLossConfig, SampledSoftmaxLoss, SoftmaxLoss
from models.matmul import Precision, factor, rounding
from models.negatives import Negatives, NegativeSampler
from models.sampled_softmax import own_hits, sampled_softmax
from models.softmax import chunked_softmax


class RankingLoss(Protocol):
    """What a position's state says of its target, against all items or against shared negatives."""

    def __call__(self, hidden_ND: Tensor, weights_XD: Tensor, rows_N: Tensor, negatives: Negatives | None) -> Tensor:
        """fp32 scalar.

        Args:
            hidden_ND: states.
            weights_XD: scoring vectors; the full loss takes all of them as the catalogue.
            rows_N: the targets' rows in ``weights_XD``.
            negatives: with ``items_K`` as rows of ``weights_XD``; None for a loss that samples nothing.
        """
        ...


class SoftmaxRankingLoss:
    """Full cross-entropy."""

    def __init__(self, config: SoftmaxLoss, precision: Precision) -> None:
        self._chunk_rows, self._precision = config.chunk_rows, precision

    def __call__(self, hidden_ND: Tensor, weights_XD: Tensor, rows_N: Tensor, negatives: Negatives | None) -> Tensor:
        hidden_ND, weights_XD = hidden_ND.float(), weights_XD.float()
        if len(hidden_ND) == 0:
            return hidden_ND.sum() + 0 * weights_XD.sum()
        return chunked_softmax(hidden_ND, weights_XD, rows_N, self._chunk_rows, self._precision)


class SampledRankingLoss:
    """Sampled softmax: the normaliser is the target's own term plus an estimate of all others from the negatives."""

    def __init__(self, config: SampledSoftmaxLoss, precision: Precision) -> None:
        self._log_q, self._precision = config.log_q, precision

    def __call__(self, hidden_ND: Tensor, weights_XD: Tensor, rows_N: Tensor, negatives: Negatives | None) -> Tensor:
        assert negatives is not None
        weight_K = negatives.counts_K / negatives.expected_K if self._log_q else negatives.counts_K
        return sampled_softmax(hidden_ND.float(), weights_XD.float(), rows_N, negatives.items_K, weight_K.log(),
                               self._precision)


class BinaryRankingLoss:
    """-(β·log σ(s_target) + Σ_k log σ(-s_k)) / (1 + K) per position, of the K that were drawn (`in_batch`: fewer than
    asked for in a small batch); a hit of the own target counts nothing."""

    def __init__(self, exponent: float, precision: Precision) -> None:
        """``exponent``: β of gBCE, 1 for BCE."""
        self._exponent, self._precision = exponent, precision

    def __call__(self, hidden_ND: Tensor, weights_XD: Tensor, rows_N: Tensor, negatives: Negatives | None) -> Tensor:
        assert negatives is not None
        hidden_ND, weights_XD = hidden_ND.float(), weights_XD.float()
        negative_KD = weights_XD.index_select(0, negatives.items_K)
        with rounding(self._precision):
            scores_NK = (factor(hidden_ND, self._precision) @ factor(negative_KD, self._precision).T).float()
        hit_N, place_N = own_hits(rows_N, negatives.items_K)
        against_NK = F.softplus(scores_NK) * negatives.counts_K
        own = against_NK[hit_N, place_N[hit_N]].sum()
        right_N = (hidden_ND * weights_XD.index_select(0, rows_N)).sum(1)
        terms = 1 + negatives.counts_K.sum()
        return (self._exponent * F.softplus(-right_N).sum() + against_NK.sum() - own) / terms


def build_ranking_loss(config: RankingLossConfig, num_items: int, precision: Precision = "fp32") -> RankingLoss:
    """The loss that a configuration names, for a catalogue of ``num_items``."""
    if isinstance(config, SoftmaxLoss):
        return SoftmaxRankingLoss(config, precision)
    if isinstance(config, SampledSoftmaxLoss):
        return SampledRankingLoss(config, precision)
    exponent = gbce_exponent(config, num_items) if isinstance(config, GBCELoss) else 1.0
    return BinaryRankingLoss(exponent, precision)


def build_sampler(config: RankingLossConfig, num_items: int, counts_V: Tensor | None) -> NegativeSampler | None:
    """Where its negatives come from; None for the full softmax.

    Raises:
        ConfigError: it samples by the items' counts, and there are none.
    """
    if isinstance(config, SoftmaxLoss):
        return None
    source = "uniform" if isinstance(config, GBCELoss) else config.source
    return NegativeSampler(source, config.negatives, num_items, counts_V)


def gbce_exponent(config: GBCELoss, num_items: int) -> float:
    """β = α·(t·(1 - 1/α) + 1/α) with the sampling rate α = negatives / (items - 1) (Petrov & Macdonald, RecSys'23)."""
    rate = min(config.negatives / max(num_items - 1, 1), 1.0)
    return rate * (config.calibration * (1 - 1 / rate) + 1 / rate)
