"""Dropout whose masks are cheap on a CPU: 16 random bits per element instead of torch's float draw, which costs more
than the layers around it at the widths of a recommender."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 2**16


class Dropout(nn.Dropout):
    """``nn.Dropout`` with the probability rounded to a multiple of 2⁻¹⁶. Draws from torch's generator."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped = round(self.p * _LEVELS)
        bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        # 1 where the bits, a number from -_LEVELS / 2 on, reach a threshold, else 0; torch is slow at comparing.
        kept = bits[: x.numel()].view(x.shape).float().sub_(dropped - _LEVELS // 2 - 1).clamp_(0, 1)
        return x * kept.mul_(_LEVELS / (_LEVELS - dropped)).to(x.dtype)
