"""H_k(S_u): the states of one block pooled into a user vector (ECIR'26, eqs. 1-3).

Every form is a softmax over per-position scores: 0 (mean), γ·t (exponential), w·h + b (attention).
Only real positions take part.

``pad_to`` = L gives the published code's reading instead: sequences there are left-padded to L and the states of
padding, set to zero after every block, take part in the softmax (a mean divides by L, whatever the length). Its
BERT4Rec leaves non-zero states at padding; here they count as zeros too.

Legend: B batch, L positions, D hidden width, T places of packed rows, S = B + 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import AttentionPooling, ExponentialPooling, PoolingConfig
from models.packing import Packing


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
        """[B, D]. ``real_BL``: bool, real positions first in each row; a row without any gives zeros. States of padding
        may be any finite numbers."""
        width = hidden_BLD.shape[1]
        if self.pad_to is None:
            scores_BL = self._scores(hidden_BLD, real_BL).masked_fill(~real_BL, torch.finfo(hidden_BLD.dtype).min)
        else:
            extra = max(self.pad_to - width, 0)
            scores_BL = self._scores(F.pad(hidden_BLD, (0, 0, 0, extra)), F.pad(real_BL, (0, extra)))
        weights_BL = scores_BL.softmax(1)[:, :width].masked_fill(~real_BL, 0.0)
        return (weights_BL.unsqueeze(1) @ hidden_BLD).squeeze(1)

    def packed(self, hidden_TD: Tensor, packing: Packing, count: int) -> Tensor:
        """The same from packed rows end to end: [B, D] of B = ``count`` sequences."""
        segments_T = packing.segments_RW.flatten()
        lengths_T = packing.lengths_RW.flatten()
        if self.attention is None and self.gamma == 0:
            weights_T = 1 / lengths_T.clamp(min=1).to(hidden_TD.dtype)
        else:
            steps_T = lengths_T - 1 - packing.from_end_RW.flatten()
            scores_T = (self.gamma * steps_T.to(hidden_TD.dtype) if self.attention is None
                        else self.attention(hidden_TD).squeeze(1))
            top_S = scores_T.detach().new_full((count + 1,), -torch.inf)
            top_S.scatter_reduce_(0, segments_T, scores_T.detach(), "amax")
            exp_T = (scores_T - top_S[segments_T]).exp()
            weights_T = exp_T / exp_T.new_zeros(count + 1).index_add(0, segments_T, exp_T)[segments_T]
        pooled_SD = hidden_TD.new_zeros(count + 1, hidden_TD.shape[1])  # the first is padding's
        return pooled_SD.index_add(0, segments_T, hidden_TD * weights_T.unsqueeze(1))[1:]

    def _scores(self, hidden_BLD: Tensor, real_BL: Tensor) -> Tensor:
        """fp32 [B, L]: the score of each position; padding at column j stands before the first real step."""
        if self.attention is not None:
            counted_BLD = hidden_BLD if self.pad_to is None else hidden_BLD.masked_fill(~real_BL.unsqueeze(2), 0.0)
            scores_BL: Tensor = self.attention(counted_BLD).squeeze(2)
            return scores_BL
        steps_L = torch.arange(hidden_BLD.shape[1], device=hidden_BLD.device)
        before_BL = real_BL.sum(1, keepdim=True) - 1 - steps_L
        return self.gamma * torch.where(real_BL, steps_L, before_BL).to(hidden_BLD.dtype)
