"""Products of matrices with the precision that training asks for, by the library that makes them fastest.

torch hands fp32 products on a CPU to MKL, which on AMD's processors leaves half of the vector units idle; oneDNN, which
torch carries too, does not, and is no slower on Intel's. It makes code for each new shape (milliseconds, and most of a
megabyte that stays), so it is for shapes that come again: callers pad to multiples of ``ROWS``.
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
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(left_MK: Tensor, right_NK: Tensor) -> Tensor:
    """``left @ right.T``, [M, N], in the type of both; sums are fp32. Not differentiable."""
    if _ONEDNN and left_MK.device.type == "cpu":
        found: Tensor = torch.ops.mkldnn._linear_pointwise(left_MK, right_NK, None, "none", [], "")
        return found
    return left_MK @ right_NK.T


def padded(rows_XD: Tensor) -> Tensor:
    """Rows of zeros below, up to a multiple of ROWS."""
    return F.pad(rows_XD, (0, 0, 0, -len(rows_XD) % ROWS))


def factor_type(precision: Precision, device: torch.device) -> torch.dtype:
    """What to store the factors of products in: a GPU rounds fp32 factors as it reads them, see ``gpu_rounding``."""
    return torch.bfloat16 if precision == "bf16" and device.type == "cpu" else torch.float32


@contextmanager
def gpu_rounding(precision: Precision) -> Iterator[None]:
    """Products of fp32 matrices on a GPU inside the block: factors rounded to TF32 where bf16 is asked for."""
    backend = torch.backends.cuda.matmul
    before = backend.fp32_precision
    backend.fp32_precision = "ieee" if precision == "fp32" else "tf32"
    try:
        yield
    finally:
        backend.fp32_precision = before
