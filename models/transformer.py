"""What SASRec and BERT4Rec share: attention, embeddings, the stack of blocks, cutting and padding.

Sequences are right-padded with 0. Positions are counted from the end of the real sequence (most recent item = 0),
so neither the width of a batch nor the side of its padding changes a state.

Legend: B batch, L positions, K keys (K = L unless said otherwise), D hidden width, H heads, E width of a head,
V items 1…n.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.errors import ConfigError, DataError, illegal
from models.config import TransformerConfig
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


class TransformerEncoder(nn.Module):
    """Item and position embeddings, blocks, final norm; items are scored by their own embeddings."""

    def __init__(
        self, config: TransformerConfig, num_items: int, blocks: Iterable[Block], special_items: int = 0
    ) -> None:
        """``special_items`` rows stand behind item n in the embedding table; they are never scored."""
        if num_items < 1:
            raise ConfigError(illegal("num_items", num_items, "1 or more", "does the prepared catalogue hold items?"))
        super().__init__()
        self.num_items = num_items
        self.max_length = config.max_length
        self.hidden_dim = config.hidden_dim
        self.item_embedding = nn.Embedding(1 + num_items + special_items, config.hidden_dim, padding_idx=0)
        self.position_embedding = nn.Embedding(config.max_length, config.hidden_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.hidden_dim, eps=1e-8)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Xavier-normal matrices and zero biases; the padding row stays 0."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.xavier_normal_(module.weight, generator=generator)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.item_embedding.weight[0])

    def forward(self, inputs_BL: Tensor, layer: int | None = None) -> Encoded:
        """States of right-padded inputs, L ≤ max_length; ``layer`` k adds those after block k.

        Raises:
            DataError: the inputs are wider than max_length.
        """
        if inputs_BL.shape[1] > self.max_length:
            raise DataError(illegal("width of the inputs", inputs_BL.shape[1], f"at most max_length={self.max_length}",
                                    "cut them with Sequences.padded"))
        mask_B1LK = self.attention_mask(inputs_BL)
        # Scaled as in "Attention is all you need", §3.4: the scored table is small, the summed vectors are not.
        hidden_BLD = self.item_embedding(inputs_BL) * self.hidden_dim**0.5
        hidden_BLD = self.dropout(hidden_BLD + self.position_embedding(positions_from_end(inputs_BL)))
        layer_BLD = None
        for index, block in enumerate(self.blocks):
            hidden_BLD = block(hidden_BLD, mask_B1LK)
            if index == layer:
                layer_BLD = hidden_BLD
        return Encoded(self.norm(hidden_BLD), layer_BLD)

    def attention_mask(self, inputs_BL: Tensor) -> Tensor | None:
        """None: causal, and then padding at the end needs no mask."""
        return None

    def item_weights_VD(self) -> Tensor:
        """Rows 1…n of the embedding table: a view, no copy."""
        return self.item_embedding.weight[1 : self.num_items + 1]


def positions_from_end(inputs_BL: Tensor) -> Tensor:
    """Steps until the last real item; 0 at padding."""
    steps_L = torch.arange(inputs_BL.shape[1], device=inputs_BL.device)
    return ((inputs_BL != 0).sum(1, keepdim=True) - 1 - steps_L).clamp(min=0)


def keep_last(items_BL: Tensor, count: int) -> Tensor:
    """Each row's last ``count`` real items, right-padded; at least one column wide."""
    batch, width = items_BL.shape
    if width <= count:
        return items_BL if width else items_BL.new_zeros(batch, 1)
    lengths_B1 = (items_BL != 0).sum(1, keepdim=True)
    columns_L = torch.arange(count, device=items_BL.device)
    source_BL = columns_L + (lengths_B1 - count).clamp(min=0)
    return items_BL.gather(1, source_BL) * (columns_L < lengths_B1)


def last_state_BD(hidden_BLD: Tensor, inputs_BL: Tensor) -> Tensor:
    """The state at each row's last real position; at the first one where there is none."""
    last_B = ((inputs_BL != 0).sum(1) - 1).clamp(min=0)
    return hidden_BLD[torch.arange(len(last_B), device=last_B.device), last_B]
