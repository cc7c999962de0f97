"""Products of matrices with the precision that training asks for, by the library that makes them fastest.

torch hands fp32 products on a CPU to MKL, which on AMD's processors leaves half of the vector units idle; oneDNN, which
torch carries too, does not, but on Intel's is a tenth slower. It makes code for each new shape (milliseconds, and most
of a megabyte that stays), so it is for shapes that come again: callers pad to multiples of ``ROWS``.

In bf16 Intel's matrix units (AMX) round fp32 factors as they read them; AMD's bf16 instructions want them stored so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Precision = Literal["fp32", "bf16"]

ROWS = 64
"""Shapes are few where rows come in multiples of this."""
_CPU = torch.cpu.get_capabilities()
_INTEL = "Intel" in _CPU.get("cpu_name", "")
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_ONEDNN = HAS_ONEDNN and not _INTEL
HAS_BF16 = HAS_ONEDNN and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
"""Whether this CPU's products can have bf16 factors; elsewhere `bf16` computes in fp32."""
_STORE_BF16 = bool(_CPU.get("avx512_bf16")) and not _INTEL


def by_onednn(device: torch.device) -> bool:
    """Whether oneDNN makes fp32 products faster there than torch's own choice."""
    return _ONEDNN and device.type == "cpu"


def product(left_MK: Tensor, right_NK: Tensor) -> Tensor:
    """``left @ right.T`` of two factors, fp32 [M, N]. Not differentiable."""
    if by_onednn(left_MK.device):
        found_MN: Tensor = torch.ops.mkldnn._linear_pointwise(left_MK, right_NK, None, "none", [], "")
    else:
        found_MN = left_MK @ right_NK.T
    return found_MN.float()


def add_product(sum_MN: Tensor, left_MK: Tensor, right_NK: Tensor) -> None:
    """``sum += left @ right.T`` of two factors, in place. Not differentiable."""
    if by_onednn(left_MK.device) or left_MK.dtype != sum_MN.dtype:
        sum_MN += product(left_MK, right_NK)
    else:
        sum_MN.addmm_(left_MK, right_NK.T)


def factor(x: Tensor, precision: Precision) -> Tensor:
    """An fp32 matrix as products inside ``rounding(precision)`` read it fastest: itself, or rounded to bf16."""
    return x.bfloat16() if precision == "bf16" and _STORE_BF16 and x.device.type == "cpu" else x


def padded(rows_XD: Tensor) -> Tensor:
    """Rows of zeros below, up to a multiple of ROWS."""
    return F.pad(rows_XD, (0, 0, 0, -len(rows_XD) % ROWS))


@contextmanager
def rounding(precision: Precision) -> Iterator[None]:
    """fp32 products inside the block round their factors as they read them where bf16 is asked for: a CPU with matrix
    units to bf16, a GPU to TF32. Sums and results are fp32 either way."""
    cpu, gpu = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    before = cpu.fp32_precision, gpu.fp32_precision
    cpu.fp32_precision, gpu.fp32_precision = ("bf16", "tf32") if precision == "bf16" else ("ieee", "ieee")
    try:
        yield
    finally:
        cpu.fp32_precision, gpu.fp32_precision = before
