"""What the transformer students share: attention, position embeddings, the stack of blocks.

Positions are counted from the end of the real sequence (most recent item = 0), so neither the width of a batch nor the
side of its padding changes a state.

Legend: B batch, L positions, K keys (K = L unless said otherwise), D hidden width, H heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Student
from models.config import TransformerConfig
from models.dropout import Dropout
from models.protocols import Encoded


class Attention(nn.Module):
    """Multi-head attention whose queries may come from other states than its keys and values."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.query = nn.Linear(config.hidden_dim, config.hidden_dim)
        self.key_value = nn.Linear(config.hidden_dim, 2 * config.hidden_dim)
        self.output = nn.Linear(config.hidden_dim, config.hidden_dim)

    def forward(self, query_BLD: Tensor, memory_BKD: Tensor, mask_B1LK: Tensor | None) -> Tensor:
        """[B, L, D]. ``mask_B1LK``: which keys may be attended to (bool), or what is added to their scores (float);
        it broadcasts; None: causal attention."""
        query_BHLE = self._split(self.query(query_BLD), 1)[0]
        key_BHKE, value_BHKE = self._split(self.key_value(memory_BKD), 2)
        mixed_BHLE = F.scaled_dot_product_attention(
            query_BHLE, key_BHKE, value_BHKE, attn_mask=mask_B1LK, is_causal=mask_B1LK is None,
            dropout_p=self.dropout if self.training else 0.0,
        )
        mixed_BLD: Tensor = self.output(mixed_BHLE.transpose(1, 2).flatten(2))
        return mixed_BLD

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[B, L, parts·D] → ``parts`` times [B, H, L, E]."""
        batch, length, width = x.shape
        split = x.view(batch, length, parts, self.num_heads, width // (parts * self.num_heads))
        return split.permute(2, 0, 3, 1, 4).unbind(0)


class Block(nn.Module):
    """One transformer block; the students differ in the order of norms and residuals."""

    def forward(self, hidden_BLD: Tensor, mask_B1LK: Tensor | None) -> Tensor:
        """[B, L, D] → [B, L, D]; ``mask_B1LK`` as in ``Attention``."""
        raise NotImplementedError


class TransformerEncoder(Student):
    """Item and position embeddings, blocks, final norm."""

    def __init__(
        self, config: TransformerConfig, num_items: int, blocks: Iterable[Block], special_items: int = 0
    ) -> None:
        super().__init__(config, num_items, special_items)
        self.position_embedding = nn.Embedding(config.max_length, config.hidden_dim)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.hidden_dim, eps=1e-8)

    def forward(self, inputs_BL: Tensor, layer: int | None = None) -> Encoded:
        """States of right-padded inputs, L ≤ max_length; ``layer`` k adds those after block k."""
        hidden_BLD = self.embed_BLD(inputs_BL) + self.position_embedding(positions_from_end(inputs_BL))
        hidden_BLD, layer_BLD = self.dropout(hidden_BLD), None
        mask_B1LK = self.attention_mask(inputs_BL)
        for index, block in enumerate(self.blocks):
            hidden_BLD = block(hidden_BLD, mask_B1LK)
            if index == layer:
                layer_BLD = hidden_BLD
        return Encoded(self.norm(hidden_BLD), layer_BLD)

    def attention_mask(self, inputs_BL: Tensor) -> Tensor | None:
        """None: causal, and then padding at the end needs no mask."""
        return None


def positions_from_end(inputs_BL: Tensor) -> Tensor:
    """Steps until the last real item; 0 at padding."""
    steps_L = torch.arange(inputs_BL.shape[1], device=inputs_BL.device)
    return ((inputs_BL != 0).sum(1, keepdim=True) - 1 - steps_L).clamp(min=0)
