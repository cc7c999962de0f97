"""Full cross-entropy over the catalogue in tiles that stay in cache; both gradients are made in the forward pass.

One pass per chunk of positions while a chunk's scores over all items fit in cache: score, exponentiate in place, and
multiply twice more. Larger catalogues take two passes over tiles of items × positions: the first adds up each
position's normaliser and its own gradient, the second recomputes the tile's exponentials for the items' gradient.
That is a third more arithmetic and far less memory traffic. Items are the rows of a tile: so all three products read
it as it lies. Powers are of 2, not of e: on a CPU torch's exp is several times slower than its exp2.

Legend: N positions with a target, D hidden width, V items, R positions of a chunk, C items of a tile.
"""

from __future__ import annotations

from math import e, log2
from typing import Any

import torch
from torch import Tensor

from models.matmul import ROWS, Precision, add_product, factor, padded, product, rounding

_CACHED_BYTES = {"cpu": 12 * 2**20}
"""Scores of a chunk up to this size are worth keeping between the products that read them."""
_GPU_BYTES = 2**30
_CHUNK_ROWS, _TILE_ROWS, _TILE_ITEMS = 4 * ROWS, 256, 1024
SAFE_EXPONENT = 64.0
"""exp of scores up to this size, and their sums over any catalogue, are far from overflow and underflow in fp32."""
BITS = log2(e)
"""exp(x) = 2 ** (BITS * x)."""


def chunked_softmax(hidden_ND: Tensor, weights_VD: Tensor, rows_N: Tensor, chunk_rows: int | None = None,
                    precision: Precision = "fp32") -> Tensor:
    """Σ_i logsumexp_v(h_i·w_v) - h_i·w_target, an fp32 scalar.

    Args:
        hidden_ND: fp32 states.
        weights_VD: fp32 scoring vectors.
        rows_N: the targets, as rows of ``weights_VD``.
        chunk_rows: positions per chunk of the one-pass form; None: chosen by the size of the catalogue.
        precision: of the matrix products' factors; sums and the value are fp32 either way.
    """
    return _ChunkedSoftmax.apply(hidden_ND, weights_VD, rows_N, chunk_rows, precision)  # type: ignore[no-any-return]


class _ChunkedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weights_VD: Tensor, rows_N: Tensor, chunk_rows: int | None,
                precision: Precision) -> Tensor:
        count, device = len(hidden_ND), hidden_ND.device
        padded_ND = padded(hidden_ND) if device.type == "cpu" else hidden_ND
        cached = _CACHED_BYTES.get(device.type, _GPU_BYTES) // (4 * len(weights_VD))
        if device.type == "cpu":
            cached = min(cached // ROWS * ROWS, _CHUNK_ROWS)
        with rounding(precision):
            softmax = _Sums(padded_ND, weights_VD, precision)
            if chunk_rows or cached >= ROWS:
                softmax.one_pass(chunk_rows or cached)
            else:
                softmax.two_passes()
        hidden_grad_ND, weights_grad_VD = softmax.hidden_grad_DN.T[:count].contiguous(), softmax.weights_grad_VD
        targets_ND = weights_VD.index_select(0, rows_N)
        loss = (softmax.normalisers_N()[:count] - (hidden_ND * targets_ND).sum(1)).sum()
        hidden_grad_ND -= targets_ND
        weights_grad_VD.index_add_(0, rows_N, hidden_ND, alpha=-1)
        ctx.save_for_backward(hidden_grad_ND, weights_grad_VD)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None, None, None]:
        # Made for this very call and used once: scaled in place, the catalogue's gradient is not copied.
        hidden_grad_ND, weights_grad_VD = ctx.saved_tensors
        return hidden_grad_ND.mul_(grads[0]), weights_grad_VD.mul_(grads[0]), None, None, None


class _Sums:
    """Σ_v exp(s_nv) for every position, and the gradients of Σ_n log Σ_v exp(s_nv)."""

    def __init__(self, hidden_ND: Tensor, weights_VD: Tensor, precision: Precision) -> None:
        self.totals_N = hidden_ND.new_zeros(len(hidden_ND))
        self.hidden_grad_DN = hidden_ND.new_zeros(hidden_ND.shape[::-1])
        self.weights_grad_VD = torch.zeros_like(weights_VD)
        self._hidden_ND, self._precision = hidden_ND, precision
        self._weights_VD, self._scored_ND = factor(weights_VD, precision), factor(hidden_ND * BITS, precision)
        self._shift_N = self._shift(weights_VD)

    def normalisers_N(self) -> Tensor:
        """log Σ_v exp(s_nv)."""
        logs_N = self.totals_N.log()
        return logs_N if self._shift_N is None else logs_N + self._shift_N / BITS

    def one_pass(self, rows: int) -> None:
        """Chunks of ``rows`` positions."""
        weights_DV = self._weights_VD.T.contiguous()
        for start in range(0, len(self._hidden_ND), rows):
            part = slice(start, start + rows)
            exp_VR, self.totals_N[part] = self._exponentials(self._weights_VD, part)
            self.hidden_grad_DN[:, part] = product(weights_DV, exp_VR.T)
            add_product(self.weights_grad_VD, exp_VR, self._shares(part).T)
            del exp_VR  # so that the next chunk gets the same memory; new pages cost as much as a product
        self.hidden_grad_DN /= self.totals_N

    def two_passes(self) -> None:
        """Tiles; nothing larger than a tile exists beside the gradients."""
        parts = [slice(start, start + _TILE_ROWS) for start in range(0, len(self._hidden_ND), _TILE_ROWS)]
        chunks = [slice(first, first + _TILE_ITEMS) for first in range(0, len(self._weights_VD), _TILE_ITEMS)]
        for items in chunks:
            weights_DC = self._weights_VD[items].T.contiguous()
            for part in parts:
                exp_CR, total_R = self._exponentials(self._weights_VD[items], part)
                self.totals_N[part] += total_R
                add_product(self.hidden_grad_DN[:, part], weights_DC, exp_CR.T)
        self.hidden_grad_DN /= self.totals_N
        shares_DR = [self._shares(part).T.contiguous() for part in parts]
        for items in chunks:
            for part, share_DR in zip(parts, shares_DR, strict=True):
                exp_CR, _ = self._exponentials(self._weights_VD[items], part)
                add_product(self.weights_grad_VD[items], exp_CR, share_DR)

    def _exponentials(self, weights_CD: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """[C, R] as a factor, and their sums over the items: fp32 [R]."""
        scores_CR = product(weights_CD, self._scored_ND[part])
        if self._shift_N is not None:
            scores_CR -= self._shift_N[part]
        exp_CR = scores_CR.exp2_()
        return factor(exp_CR, self._precision), exp_CR.sum(0)

    def _shares(self, part: slice) -> Tensor:
        """What a position adds to an item's gradient per unit of that item's exponential: [R, D]."""
        return factor(self._hidden_ND[part] / self.totals_N[part].unsqueeze(1), self._precision)

    def _shift(self, weights_VD: Tensor) -> Tensor | None:
        """What to subtract from each position's scores, in powers of 2; None while |h|·|w| bounds them all safely.

        Subtracting nothing saves two passes over the scores. Otherwise it is the largest score, at one more product.
        """
        longest = [torch.linalg.vector_norm(rows_XD, dim=1).max() for rows_XD in (self._hidden_ND, weights_VD)]
        if float(longest[0] * longest[1]) <= SAFE_EXPONENT:
            return None
        shift_N = self.totals_N.new_full((len(self.totals_N),), -torch.inf)
        for start in range(0, len(shift_N), _TILE_ROWS):
            part = slice(start, start + _TILE_ROWS)
            for weights_CD in self._weights_VD.split(_TILE_ITEMS):
                top_R = product(weights_CD, self._scored_ND[part]).amax(0)
                torch.maximum(shift_N[part], top_R, out=shift_N[part])
        return shift_N
