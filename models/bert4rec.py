"""BERT4Rec: a bidirectional transformer trained to fill in masked items (Sun et al., CIKM'19).

[MASK] is row n + 1 of the embedding table: read, never scored.

Legend: B batch, L positions, K keys (as many), D hidden width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import keep_last
from models.config import BERT4RecConfig
from models.dropout import Dropout
from models.hashing import position_bits
from models.linear import Linear
from models.packing import Packing
from models.protocols import TrainingInputs
from models.transformer import Attention, Block, TransformerEncoder, additive


class BERT4RecBlock(Block):
    """Pre-norm block with a GELU network of width 4·D."""

    def __init__(self, config: BERT4RecConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_dim, eps=1e-8)
        self.attention = Attention(config)
        self.feed_norm = nn.LayerNorm(config.hidden_dim, eps=1e-8)
        self.expand = Linear(config.hidden_dim, 4 * config.hidden_dim)
        self.contract = Linear(4 * config.hidden_dim, config.hidden_dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, hidden_BLD: Tensor, mask_B1LK: Tensor | None, memory_BKD: Tensor | None = None) -> Tensor:
        normed_BLD = self.attention_norm(hidden_BLD)
        memory_BKD = normed_BLD if memory_BKD is None else self.attention_norm(memory_BKD)
        hidden_BLD = hidden_BLD + self.dropout(self.attention(normed_BLD, memory_BKD, mask_B1LK))
        inner_BLD = F.gelu(self.expand(self.feed_norm(hidden_BLD)))
        output_BLD: Tensor = hidden_BLD + self.dropout(self.contract(inner_BLD))
        return output_BLD


class BERT4Rec(TransformerEncoder):
    """The state at a masked position scores the item that stood there."""

    def __init__(self, config: BERT4RecConfig, num_items: int) -> None:
        blocks = (BERT4RecBlock(config) for _ in range(config.num_blocks))
        super().__init__(config, num_items, blocks, special_items=1)
        self.mask_id = num_items + 1
        self.mask_threshold = int(config.mask_probability * 2**63)

    def attention_mask(self, inputs_BL: Tensor) -> Tensor | None:
        """Real positions; a row without any attends to its first, so that no softmax is empty."""
        real_BL = inputs_BL != 0
        real_BL = torch.cat([torch.ones_like(real_BL[:, :1]), real_BL[:, 1:]], 1)
        return real_BL[:, None, None, :]

    def packed_mask(self, packing: Packing) -> Tensor:
        """All positions of the same sequence."""
        return additive(packing.same_sequence())

    def training_inputs(self, items_BL: Tensor, users_B: Tensor, mask_seed: int) -> TrainingInputs:
        """The last max_length items with a seeded share masked, at least one per row; targets at the masked ones."""
        items_BL = keep_last(items_BL, self.max_length)
        real_BL = items_BL != 0
        bits_BL = position_bits(mask_seed, users_B, items_BL.shape[1]).masked_fill(~real_BL, 2**63 - 1)
        masked_BL = real_BL & ((bits_BL < self.mask_threshold) | (bits_BL == bits_BL.amin(1, keepdim=True)))
        return TrainingInputs(items_BL.masked_fill(masked_BL, self.mask_id), items_BL.masked_fill(~masked_BL, 0))

    def user_states_BD(self, items_BL: Tensor) -> Tensor:
        """The state at a [MASK] behind the last max_length - 1 items."""
        items_BL = F.pad(keep_last(items_BL, self.max_length - 1), (0, 1))
        lengths_B1 = (items_BL != 0).sum(1, keepdim=True)
        inputs_BL = items_BL.scatter(1, lengths_B1, self.mask_id)[:, : self.max_length]
        return self.last_states_BD(inputs_BL)
