"""GRU4Rec: gated recurrent layers that predict the next item at every step (Hidasi et al., "Session-based
Recommendations with Recurrent Neural Networks", ICLR'16, arXiv:1511.06939).

The layers run over right-padded rows as they are: padding stands behind the real steps and so reaches no state of
theirs. Rows that are read together have similar lengths; packing them, which keeps their steps from sharing one matrix
product, is slower there.

Legend: B batch, L positions, D hidden width (that of the item vectors), H width of the recurrent state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.base import NextItem
from models.config import GRU4RecConfig
from models.dropout import Dropout
from models.protocols import Encoded


class RecurrentBlock(nn.Module):
    """One GRU layer, dropout on its outputs, and a linear map from H to D where they differ."""

    def __init__(self, config: GRU4RecConfig) -> None:
        super().__init__()
        state_dim = config.state_dim or config.hidden_dim
        self.gru = nn.GRU(config.hidden_dim, state_dim, batch_first=True)
        self.dropout = Dropout(config.dropout)
        self.project = nn.Linear(state_dim, config.hidden_dim) if state_dim != config.hidden_dim else nn.Identity()

    def forward(self, hidden_BLD: Tensor) -> Tensor:
        """[B, L, D] → [B, L, D]."""
        states_BLH, _ = self.gru(hidden_BLD)
        output_BLD: Tensor = self.project(self.dropout(states_BLH))
        return output_BLD


class GRU4Rec(NextItem):
    """The last layer's states score the items; there is no position embedding and no norm."""

    def __init__(self, config: GRU4RecConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        torch.backends.cudnn.allow_tf32 = False  # fp32 recurrent layers would round to TF32 on a GPU, unasked
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(RecurrentBlock(config) for _ in range(config.num_blocks))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """As every student; each gate's matrices Xavier-uniform, as its authors draw them, and zero biases."""
        super().reset_parameters(generator)
        layers = [module for module in self.modules() if isinstance(module, nn.GRU)]
        for name, parameter in (pair for layer in layers for pair in layer.named_parameters()):
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
                continue
            for gate in parameter.chunk(3):
                nn.init.xavier_uniform_(gate, generator=generator)

    def forward(self, inputs_BL: Tensor, layer: int | None = None) -> Encoded:
        """States of right-padded inputs, L ≤ max_length; ``layer`` k adds those after GRU layer k."""
        hidden_BLD, layer_BLD = self.dropout(self.embed_BLD(inputs_BL)), None
        for index, block in enumerate(self.blocks):
            hidden_BLD = block(hidden_BLD)
            if index == layer:
                layer_BLD = hidden_BLD
        return Encoded(hidden_BLD, layer_BLD)
