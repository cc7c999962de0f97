"""What every student of ours shares: the item table, the next-item objective, cutting and padding.

Sequences are right-padded with 0.

Legend: B batch, L positions, D hidden width, V items 1…n.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.errors import ConfigError, DataError, illegal
from models.config import StudentConfig
from models.protocols import Encoded, TrainingInputs

ITEM_PARAMETER = "item_embedding.weight"
"""Of every student: row i is item i."""


class Student(nn.Module):
    """A ``SequenceEncoder`` whose items are read from the table that scores them."""

    packs = False
    """Whether it can read several sequences in one row, see ``TransformerEncoder.forward``."""

    def __init__(self, config: StudentConfig, num_items: int, special_items: int = 0) -> None:
        """``special_items`` rows stand behind item n in the embedding table; they are never scored."""
        if num_items < 1:
            raise ConfigError(illegal("num_items", num_items, "1 or more", "does the prepared catalogue hold items?"))
        super().__init__()
        self.num_items = num_items
        self.max_length = config.max_length
        self.hidden_dim = config.hidden_dim
        self.item_embedding = nn.Embedding(1 + num_items + special_items, config.hidden_dim, padding_idx=0)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Xavier-normal matrices and zero biases; the padding row stays 0."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.xavier_normal_(module.weight, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.item_embedding.weight[0])

    def embed_BLD(self, inputs_BL: Tensor, packed: bool = False) -> Tensor:
        """Item vectors of inputs, L ≤ max_length unless they are packed.

        Scaled as in "Attention is all you need", §3.4: the scored table is small, the read vectors are not.

        Raises:
            DataError: the inputs are wider than max_length.
        """
        if inputs_BL.shape[1] > self.max_length and not packed:
            raise DataError(illegal("width of the inputs", inputs_BL.shape[1], f"at most max_length={self.max_length}",
                                    "cut them with Sequences.padded"))
        items_BLD: Tensor = self.item_embedding(inputs_BL)
        return items_BLD * self.hidden_dim**0.5

    def item_weights_VD(self) -> Tensor:
        """Rows 1…n of the embedding table: a view, no copy."""
        return self.item_embedding.weight[1 : self.num_items + 1]

    def forward(self, inputs_BL: Tensor, layer: int | None = None) -> Encoded:
        """See ``SequenceEncoder``."""
        raise NotImplementedError

    def last_states_BD(self, inputs_BL: Tensor) -> Tensor:
        """The final state at each row's last real position, at the first one where there is none."""
        return self(inputs_BL).hidden_BLD[last_positions(inputs_BL)]

    def training_inputs(self, items_BL: Tensor, users_B: Tensor, mask_seed: int) -> TrainingInputs:
        """See ``SequenceEncoder``."""
        raise NotImplementedError

    def user_states_BD(self, items_BL: Tensor) -> Tensor:
        """See ``SequenceEncoder``."""
        raise NotImplementedError


class NextItem(Student):
    """The objective of causal students: the state at a step scores the item after it."""

    def training_inputs(self, items_BL: Tensor, users_B: Tensor, mask_seed: int) -> TrainingInputs:
        """Each row without its last item, and the same row shifted by one; rows hold up to max_length + 1 items."""
        items_BL = F.pad(keep_last(items_BL, self.max_length + 1), (0, 1))
        targets_BL = items_BL[:, 1:]
        inputs_BL = items_BL[:, :-1].masked_fill(targets_BL == 0, 0)
        width = max(inputs_BL.shape[1] - 1, 1)  # the column of pure padding is there for rows of one item
        return TrainingInputs(inputs_BL[:, :width], targets_BL[:, :width])

    def user_states_BD(self, items_BL: Tensor) -> Tensor:
        """The state at the last real item."""
        inputs_BL = keep_last(items_BL, self.max_length)
        return self.last_states_BD(inputs_BL)


def keep_last(items_BL: Tensor, count: int) -> Tensor:
    """Each row's last ``count`` real items, right-padded; at least one column wide."""
    batch, width = items_BL.shape
    if width <= count:
        return items_BL if width else items_BL.new_zeros(batch, 1)
    lengths_B1 = (items_BL != 0).sum(1, keepdim=True)
    columns_L = torch.arange(count, device=items_BL.device)
    source_BL = columns_L + (lengths_B1 - count).clamp(min=0)
    return items_BL.gather(1, source_BL) * (columns_L < lengths_B1)


def last_positions(inputs_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Every row, and its last real position; the first one where there is none: int64 [B] each."""
    last_B = ((inputs_BL != 0).sum(1) - 1).clamp(min=0)
    return torch.arange(last_B.shape[0], device=last_B.device), last_B  # len() would fix the batch of an ONNX export
