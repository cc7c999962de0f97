"""Item tables that are computed from frozen text vectors while a student trains, and folded into its own table after.

The student's parameters and its latency stay those of a plain one: what is here exists in training only.

Legend: V items 1…n, X rows of the student's table (padding 0, items, special rows), E width of the text vectors,
D hidden width.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from configs.errors import ConfigError, illegal
from models.base import Student

_FLAT = 1e-4
"""Dimensions that spread less are centred and hardly scaled."""


class ItemTable(Protocol):
    """A differentiable table in place of a student's own."""

    def __call__(self) -> Tensor:
        """fp32 [X, D]."""
        ...


class MappedText(nn.Module):
    """Every item's row is one trained linear map of its frozen text vector: a text-only recommender, which also places
    items that nobody has bought. Special rows behind the items are trained as they are."""

    def __init__(self, encoder: Student, vectors_VE: Tensor, known_V: Tensor, generator: torch.Generator) -> None:
        """
        Args:
            encoder: freshly initialised; the spread of its table is that of the mapped rows at the start.
            vectors_VE: one row per item 1…n; standardised here over the known items.
            known_V: bool, items with a vector; the others stay at zero, the mean of all texts.
            generator: of the map's start.

        Raises:
            ConfigError: not one vector per item, or none at all.
        """
        super().__init__()
        if len(vectors_VE) != encoder.num_items or not known_V.any():
            raise ConfigError(illegal("item vectors", f"{len(vectors_VE)} rows, {int(known_V.sum())} with a vector",
                                      f"a row for each of {encoder.num_items} items, and texts for some"))
        own_XD = encoder.item_embedding.weight.detach()
        real_TE = vectors_VE[known_V].float()
        scaled_VE = (vectors_VE.float() - real_TE.mean(0)) / (real_TE.std(0, correction=0) + _FLAT)
        self.register_buffer("vectors_VE", scaled_VE * known_V.unsqueeze(1), persistent=False)
        self.vectors_VE: Tensor
        spread = float(own_XD[1 : encoder.num_items + 1].std())
        self.map_DE = nn.Parameter(torch.randn(encoder.hidden_dim, vectors_VE.shape[1], generator=generator)
                                   * spread / vectors_VE.shape[1] ** 0.5)
        self.special_SD = nn.Parameter(own_XD[encoder.num_items + 1 :].clone())

    def forward(self) -> Tensor:
        """See ``ItemTable``."""
        padding_1D = self.map_DE.new_zeros(1, len(self.map_DE))
        return torch.cat([padding_1D, self.vectors_VE @ self.map_DE.T, self.special_SD])


class BoundedChange(nn.Module):
    """Every row is its start plus a trained change of at most a share of the start's length: items keep near their
    texts however rare they are ("Let It Go", arXiv 2507.19473)."""

    def __init__(self, encoder: Student, limit: float) -> None:
        """``encoder``: its table is the start. ``limit``: largest ‖change‖ / ‖start‖ of a row."""
        super().__init__()
        self.register_buffer("start_XD", encoder.item_embedding.weight.detach().clone(), persistent=False)
        self.start_XD: Tensor
        self.register_buffer("bound_X1", limit * self.start_XD.norm(dim=1, keepdim=True), persistent=False)
        self.bound_X1: Tensor
        self.change_XD = nn.Parameter(torch.zeros_like(self.start_XD))

    def forward(self) -> Tensor:
        """See ``ItemTable``."""
        length_X1 = torch.linalg.vector_norm(self.change_XD, dim=1, keepdim=True)
        share_X1 = torch.where(length_X1 > self.bound_X1, self.bound_X1 / length_X1.clamp(min=1e-12),
                               torch.ones_like(length_X1))
        return self.start_XD + self.change_XD * share_X1


def fold(encoder: Student, table: ItemTable) -> None:
    """Write the computed rows into the student's own table, from which it ranks and is exported."""
    with torch.no_grad():
        encoder.item_embedding.weight.copy_(table())
