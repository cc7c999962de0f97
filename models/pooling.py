"""H_k(S_u): the states of one block pooled into a user vector (ECIR'26, eqs. 1-3).

Every form is a softmax over per-position scores: 0 (mean), γ·t (exponential), w·h + b (attention).
Only real positions take part.

``pad_to`` = L gives the published code's reading instead: sequences there are left-padded to L and the states of
padding, set to zero after every block, take part in the softmax (a mean divides by L, whatever the length). Its
BERT4Rec leaves non-zero states at padding; here they count as zeros too.

Legend: B batch, L positions, D hidden width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import AttentionPooling, ExponentialPooling, PoolingConfig


class Pooling(nn.Module):
    """Weighted mean over real positions. The attention vector starts at zero, that is, as the plain mean."""

    def __init__(self, config: PoolingConfig, hidden_dim: int, pad_to: int | None = None) -> None:
        super().__init__()
        self.gamma = config.gamma if isinstance(config, ExponentialPooling) else 0.0
        self.attention = nn.Linear(hidden_dim, 1) if isinstance(config, AttentionPooling) else None
        self.pad_to = pad_to
        if self.attention is not None:
            nn.init.zeros_(self.attention.weight)
            nn.init.zeros_(self.attention.bias)

    def forward(self, hidden_BLD: Tensor, real_BL: Tensor) -> Tensor:
        """[B, D]. ``real_BL``: bool, real positions first in each row; a row without any gives zeros."""
        width = hidden_BLD.shape[1]
        if self.pad_to is None:
            scores_BL = self._scores(hidden_BLD, real_BL).masked_fill(~real_BL, torch.finfo(hidden_BLD.dtype).min)
        else:
            extra = max(self.pad_to - width, 0)
            scores_BL = self._scores(F.pad(hidden_BLD, (0, 0, 0, extra)), F.pad(real_BL, (0, extra)))
        weights_BL = scores_BL.softmax(1)[:, :width].masked_fill(~real_BL, 0.0)
        return (weights_BL.unsqueeze(1) @ hidden_BLD.masked_fill(~real_BL.unsqueeze(2), 0.0)).squeeze(1)

    def _scores(self, hidden_BLD: Tensor, real_BL: Tensor) -> Tensor:
        """fp32 [B, L]: the score of each position; padding at column j stands before the first real step."""
        if self.attention is not None:
            scores_BL: Tensor = self.attention(hidden_BLD.masked_fill(~real_BL.unsqueeze(2), 0.0)).squeeze(2)
            return scores_BL
        steps_L = torch.arange(hidden_BLD.shape[1], device=hidden_BLD.device)
        before_BL = real_BL.sum(1, keepdim=True) - 1 - steps_L
        return self.gamma * torch.where(real_BL, steps_L, before_BL).to(hidden_BLD.dtype)
