"""Full cross-entropy over the catalogue in tiles that stay in cache; both gradients are made in the forward pass.

One pass per chunk of positions while a chunk's scores over all items fit in cache: score, exponentiate in place, and
multiply twice more. Larger catalogues take two passes over tiles of positions × items: the first adds up each
position's normaliser and its own gradient, the second recomputes the tile's exponentials for the items' gradient.
That is a third more arithmetic and far less memory traffic.

Legend: N positions with a target, D hidden width, V items, R positions of a chunk, C items of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Precision = Literal["fp32", "bf16"]

_CACHED_BYTES = {"cpu": 12 * 2**20}
"""Scores of a chunk up to this size are worth keeping between the products that read them."""
_GPU_BYTES = 2**30
_ROWS, _TILE_ROWS, _TILE_ITEMS = 128, 256, 1024
_BF16_ROWS = 64
"""On a CPU each new shape of a bf16 product has code and buffers of its own made for it, and kept: shapes are few where
positions come in multiples of this."""
_SAFE_EXPONENT = 64.0
"""exp of scores up to this size, and their sums over any catalogue, are far from overflow and underflow in fp32."""


def chunked_softmax(hidden_ND: Tensor, weights_VD: Tensor, rows_N: Tensor, chunk_rows: int | None = None,
                    precision: Precision = "fp32") -> Tensor:
    """Σ_i logsumexp_v(h_i·w_v) - h_i·w_target, an fp32 scalar.

    Args:
        hidden_ND: fp32 states.
        weights_VD: fp32 scoring vectors.
        rows_N: the targets, as rows of ``weights_VD``.
        chunk_rows: positions per chunk of the one-pass form; None: chosen by the size of the catalogue.
        precision: of the matrix products' inputs; scores, exponentials, sums and the value are fp32 either way. With
            bf16 on a CPU the products that make the gradients are also rounded to bf16, chunk by chunk, before they
            are added up in fp32.
    """
    return _ChunkedSoftmax.apply(hidden_ND, weights_VD, rows_N, chunk_rows, precision)  # type: ignore[no-any-return]


class _ChunkedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weights_VD: Tensor, rows_N: Tensor, chunk_rows: int | None,
                precision: Precision) -> Tensor:
        on_cpu = hidden_ND.device.type == "cpu"
        cached = _CACHED_BYTES.get(hidden_ND.device.type, _GPU_BYTES) // (4 * len(weights_VD))
        # A GPU rounds fp32 inputs as it reads them; a CPU would do so again for every chunk.
        factors = torch.bfloat16 if on_cpu and precision == "bf16" else torch.float32
        real_ND = hidden_ND
        if factors != torch.float32:
            hidden_ND = F.pad(hidden_ND, (0, 0, 0, -len(hidden_ND) % _BF16_ROWS))
        with matmul_precision(precision, hidden_ND.device):
            shift_N1 = _shift(hidden_ND, weights_VD)
            if chunk_rows is not None or cached >= _ROWS:
                best = cached if not on_cpu else _ROWS if factors == torch.float32 else min(cached, 2 * _ROWS)
                rows = chunk_rows if chunk_rows is not None else best
                totals_N, hidden_grad_ND, weights_grad_VD = _one_pass(hidden_ND, weights_VD, shift_N1, rows, factors)
            else:
                totals_N, hidden_grad_ND, weights_grad_VD = _two_passes(hidden_ND, weights_VD, shift_N1, factors)
        real = slice(len(real_ND))
        totals_N, hidden_grad_ND = totals_N[real], hidden_grad_ND[real]
        targets_ND = weights_VD.index_select(0, rows_N)
        right_N = (real_ND * targets_ND).sum(1)
        loss = (totals_N.log() - right_N).sum() if shift_N1 is None else (
            totals_N.log() + shift_N1[real].squeeze(1) - right_N).sum()
        hidden_grad_ND -= targets_ND
        weights_grad_VD.index_add_(0, rows_N, real_ND, alpha=-1)
        ctx.save_for_backward(hidden_grad_ND, weights_grad_VD)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None, None, None]:
        # Made for this very call and used once: scaled in place, the catalogue's gradient is not copied.
        hidden_grad_ND, weights_grad_VD = ctx.saved_tensors
        return hidden_grad_ND.mul_(grads[0]), weights_grad_VD.mul_(grads[0]), None, None, None


def _one_pass(hidden_ND: Tensor, weights_VD: Tensor, shift_N1: Tensor | None, rows: int, factors: torch.dtype
              ) -> tuple[Tensor, Tensor, Tensor]:
    """Σ_v exp, and the gradients of Σ log Σ exp."""
    totals_N = hidden_ND.new_empty(len(hidden_ND))
    hidden_grad_ND, weights_grad_VD = torch.zeros_like(hidden_ND), torch.zeros_like(weights_VD)
    factor_VD = weights_VD.to(factors)
    buffer_RV = hidden_ND.new_empty(min(rows, len(hidden_ND)), len(weights_VD))
    rounded_RV = buffer_RV.to(factors)
    for start in range(0, len(hidden_ND), rows):
        part = slice(start, start + rows)
        hidden_RD, total_R = hidden_ND[part], totals_N[part]
        exp_RV = _exponentials(hidden_RD, weights_VD, shift_N1, part, buffer_RV[: len(hidden_RD)])
        torch.sum(exp_RV, 1, out=total_R)
        factor_RV = _rounded(exp_RV, rounded_RV[: len(hidden_RD)])
        _add_product(hidden_grad_ND[part], factor_RV, factor_VD)
        _add_product(weights_grad_VD, factor_RV.T, (hidden_RD / total_R.unsqueeze(1)).to(factors))
    hidden_grad_ND /= totals_N.unsqueeze(1)
    return totals_N, hidden_grad_ND, weights_grad_VD


def _two_passes(hidden_ND: Tensor, weights_VD: Tensor, shift_N1: Tensor | None, factors: torch.dtype
                ) -> tuple[Tensor, Tensor, Tensor]:
    """The same in tiles; nothing larger than a tile exists beside the gradients."""
    totals_N = hidden_ND.new_zeros(len(hidden_ND))
    hidden_grad_ND, weights_grad_VD = torch.zeros_like(hidden_ND), torch.zeros_like(weights_VD)
    factor_VD = weights_VD.to(factors)
    buffer = hidden_ND.new_empty(_TILE_ROWS * _TILE_ITEMS)
    rounded = buffer.to(factors)
    tiles = [(slice(start, start + _TILE_ROWS), slice(first, first + _TILE_ITEMS))
             for first in range(0, len(weights_VD), _TILE_ITEMS) for start in range(0, len(hidden_ND), _TILE_ROWS)]
    scaled_ND = hidden_ND  # not read before the second pass
    for recompute in (False, True):
        for part, items in tiles:
            hidden_RD, weights_CD = hidden_ND[part], weights_VD[items]
            shape, size = (len(hidden_RD), len(weights_CD)), len(hidden_RD) * len(weights_CD)
            exp_RC = _exponentials(hidden_RD, weights_CD, shift_N1, part, buffer[:size].view(shape))
            factor_RC = _rounded(exp_RC, rounded[:size].view(shape))
            if recompute:
                _add_product(weights_grad_VD[items], factor_RC.T, scaled_ND[part])
            else:
                totals_N[part] += exp_RC.sum(1)
                _add_product(hidden_grad_ND[part], factor_RC, factor_VD[items])
        scaled_ND = (hidden_ND / totals_N.unsqueeze(1)).to(factors)
    hidden_grad_ND /= totals_N.unsqueeze(1)
    return totals_N, hidden_grad_ND, weights_grad_VD


def _rounded(exp_RC: Tensor, buffer_RC: Tensor) -> Tensor:
    """The same numbers in the buffer's type."""
    return exp_RC if exp_RC.dtype == buffer_RC.dtype else buffer_RC.copy_(exp_RC)


def _add_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    """out += left @ right; sums inside the product are fp32."""
    if left.dtype == out.dtype:
        out.addmm_(left, right)
    else:
        out += left @ right


def _exponentials(hidden_RD: Tensor, weights_CD: Tensor, shift_N1: Tensor | None, part: slice, out_RC: Tensor
                  ) -> Tensor:
    torch.mm(hidden_RD, weights_CD.T, out=out_RC)
    if shift_N1 is not None:
        out_RC -= shift_N1[part]
    return out_RC.exp_()


def _shift(hidden_ND: Tensor, weights_VD: Tensor) -> Tensor | None:
    """What to subtract from each position's scores before exp; None while |h|·|w| bounds them all safely.

    Subtracting nothing saves two passes over the scores. Otherwise it is the largest score, at one more product.
    """
    bound = torch.linalg.vector_norm(hidden_ND, dim=1).max() * torch.linalg.vector_norm(weights_VD, dim=1).max()
    if float(bound) <= _SAFE_EXPONENT:
        return None
    shift_N1 = hidden_ND.new_full((len(hidden_ND), 1), -torch.inf)
    for start in range(0, len(hidden_ND), _TILE_ROWS):
        part = slice(start, start + _TILE_ROWS)
        for weights_CD in weights_VD.split(_TILE_ITEMS):
            torch.maximum(shift_N1[part], (hidden_ND[part] @ weights_CD.T).amax(1, keepdim=True), out=shift_N1[part])
    return shift_N1


@contextmanager
def matmul_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Products of fp32 matrices inside the block: inputs rounded where asked for (bf16 on a CPU, TF32 on a GPU), sums
    in fp32 either way."""
    backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    backend, rounded = backend.matmul, "tf32" if device.type == "cuda" else "bf16"
    wanted = "ieee" if precision == "fp32" else rounded
    before = backend.fp32_precision
    backend.fp32_precision = wanted
    try:
        yield
    finally:
        backend.fp32_precision = before
