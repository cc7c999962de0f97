"""SASRec: a causal transformer that predicts the next item at every step (Kang & McAuley, ICDM'18).

Legend: B batch, L positions, D hidden width, K keys: the positions, behind one empty step where those are attended to.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import NextItem
from models.config import SASRecConfig
from models.dropout import Dropout
from models.linear import Linear
from models.packing import Packing
from models.transformer import Attention, Block, TransformerEncoder, additive


class SASRecBlock(Block):
    """Norm on the queries alone, then a pointwise network of width D whose residual starts from its own norm."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_dim, eps=1e-8)
        self.attention = Attention(config, config.padding_keys)
        self.feed_norm = nn.LayerNorm(config.hidden_dim, eps=1e-8)
        self.expand = Linear(config.hidden_dim, config.hidden_dim)
        self.contract = Linear(config.hidden_dim, config.hidden_dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, hidden_BLD: Tensor, mask_B1LK: Tensor | None, memory_BKD: Tensor | None = None) -> Tensor:
        memory_BKD = hidden_BLD if memory_BKD is None else memory_BKD
        hidden_BLD = hidden_BLD + self.attention(self.attention_norm(hidden_BLD), memory_BKD, mask_B1LK)
        hidden_BLD = self.feed_norm(hidden_BLD)
        inner_BLD = F.relu(self.dropout(self.expand(hidden_BLD)))
        output_BLD: Tensor = hidden_BLD + self.dropout(self.contract(inner_BLD))
        return output_BLD


class SASRec(NextItem, TransformerEncoder):
    """Its blocks under the next-item objective."""

    def __init__(self, config: SASRecConfig, num_items: int) -> None:
        super().__init__(config, num_items, (SASRecBlock(config) for _ in range(config.num_blocks)))
        self.padding_keys = config.padding_keys

    def attention_mask(self, inputs_BL: Tensor) -> Tensor | None:
        """None (causal), or causal behind one key for all m empty steps: equal keys, so log m is added to its score."""
        if not self.padding_keys:
            return None
        length = inputs_BL.shape[1]
        causal_LL = torch.ones(length, length, dtype=torch.bool, device=inputs_BL.device).tril()
        lengths_BL = (inputs_BL != 0).sum(1, keepdim=True).expand(-1, length)
        return self._with_empty_steps(additive(causal_LL).expand(inputs_BL.shape[0], -1, -1), lengths_BL).unsqueeze(1)

    def packed_mask(self, packing: Packing) -> Tensor:
        """The same for packed rows."""
        mask_RWW = super().packed_mask(packing)
        return self._with_empty_steps(mask_RWW, packing.lengths_RW) if self.padding_keys else mask_RWW

    def _with_empty_steps(self, mask_BLL: Tensor, lengths_BL: Tensor) -> Tensor:
        """[B, L, 1 + L]."""
        empty_BL1 = (self.max_length - lengths_BL).to(mask_BLL.dtype).log().unsqueeze(2)
        return torch.cat([empty_BL1, mask_BLL], 2)
