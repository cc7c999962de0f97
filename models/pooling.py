"""H_k(S_u): the states of one block pooled into a user vector (ECIR'26, eqs. 1-3).

Every form is a softmax over per-position scores: 0 (mean), γ·t (exponential), w·h + b (attention).
Only real positions take part.

``pad_to`` = L gives the published code's reading instead: sequences there are left-padded to L and the states of
padding, set to zero after every block, take part in the softmax (a mean divides by L, whatever the length). Its
BERT4Rec leaves non-zero states at padding; here they count as zeros too.

Legend: B batch, L positions, D hidden width, T places of packed rows, X either, S = B + 1.
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
        steps_BL = torch.arange(hidden_BLD.shape[1], device=hidden_BLD.device).expand_as(real_BL)
        if self.pad_to is None:
            scores_BL = self._scores(hidden_BLD, steps_BL).masked_fill(~real_BL, torch.finfo(hidden_BLD.dtype).min)
        else:
            scores_BL = self._scores_with_padding(hidden_BLD, real_BL, self.pad_to)
        weights_BL = scores_BL.softmax(1)[:, : real_BL.shape[1]].masked_fill(~real_BL, 0.0)
        return (weights_BL.unsqueeze(1) @ hidden_BLD).squeeze(1)

    def packed(self, hidden_TD: Tensor, packing: Packing, count: int) -> Tensor:
        """The same from packed rows end to end: [B, D] of B = ``count`` sequences."""
        segments_T = packing.segments_RW.flatten()
        scores_T = self._scores(hidden_TD, packing.lengths_RW.flatten() - 1 - packing.from_end_RW.flatten())
        top_S = scores_T.detach().new_full((count + 1,), -torch.inf)
        top_S.scatter_reduce_(0, segments_T, scores_T.detach(), "amax")
        exp_T = (scores_T - top_S[segments_T]).exp()
        weights_T = exp_T / exp_T.new_zeros(count + 1).index_add(0, segments_T, exp_T)[segments_T]
        pooled_SD = hidden_TD.new_zeros(count + 1, hidden_TD.shape[1])  # the first is padding's
        return pooled_SD.index_add(0, segments_T, hidden_TD * weights_T.unsqueeze(1))[1:]

    def _scores(self, hidden_XD: Tensor, steps_X: Tensor) -> Tensor:
        """The score of positions: 0, γ·t or w·h + b. ``steps_X``: t, from the sequence's first item on."""
        if self.attention is not None:
            scores_X: Tensor = self.attention(hidden_XD).squeeze(-1)
            return scores_X
        return self.gamma * steps_X.to(hidden_XD.dtype)

    def _scores_with_padding(self, hidden_BLD: Tensor, real_BL: Tensor, pad_to: int) -> Tensor:
        """[B, ``pad_to`` or L]: padding at column j has a zero state and stands before the first real step."""
        extra = max(pad_to - real_BL.shape[1], 0)
        counted_BLD = F.pad(hidden_BLD.masked_fill(~real_BL.unsqueeze(2), 0.0), (0, 0, 0, extra))
        real_BL = F.pad(real_BL, (0, extra))
        steps_BL = torch.arange(real_BL.shape[1], device=real_BL.device).expand_as(real_BL)
        before_BL = real_BL.sum(1, keepdim=True) - 1 - steps_BL
        return self._scores(counted_BLD, torch.where(real_BL, steps_BL, before_BL))
