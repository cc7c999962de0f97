"""eSASRec: SASRec's objective over LiGR layers (Tikhonovich et al., "eSASRec: Enhancing Transformer-based
Recommendations in a Modular Fashion", RecSys'25, arXiv:2508.06450).

A LiGR layer (Borisyuk et al., "From Features to Transformers: Redefining Ranking for Scalable Impact",
arXiv:2502.03417) is a pre-norm block whose residuals pass a learnt gate; in the form that eSASRec was published with
(RecTools 0.17 and later, `rectools/models/nn/transformers/ligr.py`), the gates read the un-normed state:

    h ← h + σ(W_a·h + b_a) ⊙ Attention(LN(h))
    h ← h + σ(W_f·h + b_f) ⊙ SwiGLU(LN(h)),    SwiGLU(x) = W_2·(SiLU(W_1·x) ⊙ W_3·x), no biases

SwiGLU is Shazeer's ("GLU Variants Improve Transformer", arXiv:2002.05202, eq. 6). As in our other transformers, and
unlike there, item vectors are scaled when read and a norm follows the last block.

Legend: B batch, L positions, K keys (as many), D hidden width, M inner width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import NextItem
from models.config import ESASRecConfig
from models.dropout import Dropout
from models.linear import Linear
from models.transformer import Attention, Block, TransformerEncoder


class LiGRBlock(Block):
    """The two gated residuals above; dropout on attention weights, inside SwiGLU and on what each gate lets through."""

    def __init__(self, config: ESASRecConfig) -> None:
        super().__init__()
        width, inner = config.hidden_dim, config.feed_multiple * config.hidden_dim
        self.attention_norm = nn.LayerNorm(width, eps=1e-8)
        self.attention = Attention(config)
        self.attention_gate = Linear(width, width)
        self.feed_norm = nn.LayerNorm(width, eps=1e-8)
        self.expand = Linear(width, 2 * inner, bias=False)
        self.contract = Linear(inner, width, bias=False)
        self.feed_gate = Linear(width, width)
        self.dropout = Dropout(config.dropout)

    def forward(self, hidden_BLD: Tensor, mask_B1LK: Tensor | None, memory_BKD: Tensor | None = None) -> Tensor:
        normed_BLD = self.attention_norm(hidden_BLD)
        memory_BKD = normed_BLD if memory_BKD is None else self.attention_norm(memory_BKD)
        mixed_BLD = self.dropout(self.attention(normed_BLD, memory_BKD, mask_B1LK))
        hidden_BLD = torch.addcmul(hidden_BLD, torch.sigmoid(self.attention_gate(hidden_BLD)), mixed_BLD)
        first_BLM, third_BLM = self.expand(self.feed_norm(hidden_BLD)).chunk(2, -1)
        inner_BLM = self.dropout(F.silu(first_BLM) * third_BLM)
        return torch.addcmul(
            hidden_BLD, torch.sigmoid(self.feed_gate(hidden_BLD)), self.dropout(self.contract(inner_BLM))
        )


class ESASRec(NextItem, TransformerEncoder):
    """LiGR layers under the next-item objective."""

    def __init__(self, config: ESASRecConfig, num_items: int) -> None:
        super().__init__(config, num_items, (LiGRBlock(config) for _ in range(config.num_blocks)))
