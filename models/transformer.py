"""What the transformer students share: attention, position embeddings, the stack of blocks.

Positions are counted from the end of the real sequence (most recent item = 0), so neither the width of a batch nor the
side of its padding changes a state.

Legend: B batch, L positions, K keys (K = L unless said otherwise), D hidden width, H heads, E width of a head,
R packed rows, W their width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Student, last_positions
from models.config import TransformerConfig
from models.dropout import Dropout
from models.linear import Linear
from models.packing import Packing
from models.protocols import Encoded


class Attention(nn.Module):
    """Multi-head attention whose queries may come from other states than its keys and values."""

    def __init__(self, config: TransformerConfig, empty_step: bool = False) -> None:
        """``empty_step``: a step whose state is zero stands before the others, for keys and values alone."""
        super().__init__()
        self.num_heads = config.num_heads
        self.query = Linear(config.hidden_dim, config.hidden_dim)
        self.key_value = Linear(config.hidden_dim, 2 * config.hidden_dim)
        self.output = Linear(config.hidden_dim, config.hidden_dim)
        self.dropout = Dropout(config.dropout)
        self.empty_step = empty_step

    def forward(self, query_BLD: Tensor, memory_BLD: Tensor, mask_B1LK: Tensor | None) -> Tensor:
        """[B, L, D]. ``mask_B1LK``: which keys may be attended to (bool), or what is added to their scores (float);
        it broadcasts; None: causal attention."""
        query_BHLE = self._split(self.query(query_BLD), 1)[0]
        memory_BKD = self.key_value(memory_BLD)
        if self.empty_step:
            memory_BKD = torch.cat([self.key_value.bias.expand(memory_BKD.shape[0], 1, -1), memory_BKD], 1)
        key_BHKE, value_BHKE = self._split(memory_BKD, 2)
        added = mask_B1LK is not None and mask_B1LK.is_floating_point()
        if added and self.training and self.dropout.p and query_BLD.device.type == "cpu":
            # What torch would do too, with a dropout that costs it more than the attention.
            scores_BHLK = (query_BHLE * query_BHLE.shape[-1] ** -0.5) @ key_BHKE.transpose(2, 3) + mask_B1LK
            mixed_BHLE = self.dropout(scores_BHLK.softmax(3)) @ value_BHKE
        else:
            mixed_BHLE = F.scaled_dot_product_attention(
                query_BHLE, key_BHKE, value_BHKE, attn_mask=mask_B1LK, is_causal=mask_B1LK is None,
                dropout_p=self.dropout.p if self.training else 0.0)
        mixed_BLD: Tensor = self.output(mixed_BHLE.transpose(1, 2).flatten(2))
        return mixed_BLD

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[B, L, parts·D] → ``parts`` times [B, H, L, E]."""
        batch, length, width = x.shape
        split = x.view(batch, length, parts, self.num_heads, width // (parts * self.num_heads))
        return split.permute(2, 0, 3, 1, 4).unbind(0)


class Block(nn.Module):
    """One transformer block; the students differ in the order of norms and residuals."""

    def forward(self, hidden_BLD: Tensor, mask_B1LK: Tensor | None, memory_BKD: Tensor | None = None) -> Tensor:
        """[B, L, D] → [B, L, D]; ``mask_B1LK`` as in ``Attention``. ``memory_BKD``: states of all positions, where the
        others are only some of them."""
        raise NotImplementedError


class TransformerEncoder(Student):
    """Item and position embeddings, blocks, final norm."""

    packs = True

    def __init__(
        self, config: TransformerConfig, num_items: int, blocks: Iterable[Block], special_items: int = 0
    ) -> None:
        super().__init__(config, num_items, special_items)
        self.position_embedding = nn.Embedding(config.max_length, config.hidden_dim)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.hidden_dim, eps=1e-8)

    def forward(self, inputs_BL: Tensor, layer: int | None = None, packing: Packing | None = None) -> Encoded:
        """States of right-padded inputs, L ≤ max_length; ``layer`` k adds those after block k.

        With ``packing``, its R rows of width W are the inputs and the states are [R, W, D].
        """
        hidden_BLD, layer_BLD = self._embedded(inputs_BL, packing), None
        mask_B1LK = self.attention_mask(inputs_BL) if packing is None else self.packed_mask(packing).unsqueeze(1)
        for index, block in enumerate(self.blocks):
            hidden_BLD = block(hidden_BLD, mask_B1LK)
            if index == layer:
                layer_BLD = hidden_BLD
        return Encoded(self.norm(hidden_BLD), layer_BLD)

    def last_states_BD(self, inputs_BL: Tensor) -> Tensor:
        """The final state at each row's last real position, at the first one where there is none. The last block
        computes no other."""
        hidden_BLD = self._embedded(inputs_BL, None)
        mask_B1LK = self.attention_mask(inputs_BL)
        *blocks, final = self.blocks
        for block in blocks:
            hidden_BLD = block(hidden_BLD, mask_B1LK)
        rows_B, last_B = last_positions(inputs_BL)
        if mask_B1LK is None:  # causal
            steps_L = torch.arange(inputs_BL.shape[1], device=inputs_BL.device)
            mask_B1LK = (steps_L <= last_B.unsqueeze(1))[:, None, None]
        elif mask_B1LK.shape[2] > 1:
            mask_B1LK = mask_B1LK[rows_B, :, last_B].unsqueeze(2)
        last_B1D = final(hidden_BLD[rows_B, last_B].unsqueeze(1), mask_B1LK, hidden_BLD)
        states_BD: Tensor = self.norm(last_B1D.squeeze(1))
        return states_BD

    def _embedded(self, inputs_BL: Tensor, packing: Packing | None) -> Tensor:
        from_end_BL = positions_from_end(inputs_BL) if packing is None else packing.from_end_RW
        items_BLD = self.embed_BLD(inputs_BL, packing is not None)
        embedded_BLD: Tensor = self.dropout(items_BLD + self.position_embedding(from_end_BL))
        return embedded_BLD

    def attention_mask(self, inputs_BL: Tensor) -> Tensor | None:
        """None: causal, and then padding at the end needs no mask."""
        return None

    def packed_mask(self, packing: Packing) -> Tensor:
        """The same for packed rows, one mask for all heads: [R, W, K]."""
        return additive(packing.same_sequence().tril())


def additive(mask: Tensor) -> Tensor:
    """0 where the mask is true, a number below every score elsewhere: what is added to scores. Made once, it serves
    every block."""
    return mask.float().sub_(1).mul_(torch.finfo(torch.float32).max)


def positions_from_end(inputs_BL: Tensor) -> Tensor:
    """Steps until the last real item; 0 at padding."""
    steps_L = torch.arange(inputs_BL.shape[1], device=inputs_BL.device)
    return ((inputs_BL != 0).sum(1, keepdim=True) - 1 - steps_L).clamp(min=0)
