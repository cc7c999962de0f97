"""A baseline of texts alone: items whose texts lie near those of the history, by the encoder's own vectors.

Legend: B users, V catalogue, C items of a chunk, E encoder width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.sequences import Sequences
from pipeline.evaluate.config import ContentConfig
from pipeline.evaluate.histories import weighted_histories
from pipeline.train.item_vectors import ItemVectors


@dataclass(frozen=True)
class Content:
    """Cosine between an item's text and the weighted mean of the history's texts. It learns nothing, so an item that
    nobody has bought is ranked as any other; an item without text scores 0."""

    vectors_VE: np.ndarray
    """fp32 of length 1, or 0 where there is no text; row i is item i + 1."""
    decay: float
    """Weight exp(-decay · steps back) of a history item."""

    @property
    def num_items(self) -> int:
        return len(self.vectors_VE)

    def states(self, histories: Sequences, indices: np.ndarray) -> Tensor:
        """fp32 [B, E] of length 1; 0 for a history without texts."""
        mixed_BE = weighted_histories(histories, indices, self.decay, self.num_items) @ self.vectors_VE
        return torch.nn.functional.normalize(torch.from_numpy(mixed_BE), dim=1)

    def scores(self, states: Tensor, start: int, stop: int) -> Tensor:
        return states @ torch.from_numpy(self.vectors_VE[start - 1 : stop - 1]).T


def fit_content(config: ContentConfig, texts: ItemVectors) -> Content:
    """The texts, centred over those that there are: what all have in common says nothing."""
    centred_VE = texts.vectors_VE - texts.vectors_VE[texts.known_V].mean(0) if texts.known_V.any() else texts.vectors_VE
    lengths_V1 = np.linalg.norm(centred_VE, axis=1, keepdims=True)
    scaled_VE = centred_VE / np.where(lengths_V1 > 0, lengths_V1, 1.0) * texts.known_V[:, None]
    return Content(scaled_VE.astype(np.float32), config.recency_decay)
