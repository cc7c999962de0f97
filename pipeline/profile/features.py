"""The catalogue as the keywords engine sees it: which words, categories, attributes and decade each item carries.

Written once per artifact by ``catalogue.build`` and memory-mapped by every actor.
Legend: I items, F features, E item–feature pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.store.arrow import open_arrow

_SMOOTHING = 5.0
"""A feature of so few items gets half its weight: it hardly ever tells two users alike."""


class Kind(IntEnum):
    """What a feature is."""

    TERM = 0
    CATEGORY = 1
    ATTRIBUTE = 2
    DECADE = 3


@dataclass(frozen=True)
class ItemFeatures:
    """Features of all items, item indices 1…I; row 0 is empty."""

    offsets_I: np.ndarray
    """int64 [I + 2]"""
    features_E: np.ndarray
    """int32, ascending within an item."""
    price_I: np.ndarray
    """float32 [I + 1]: 0 (cheapest) … 1 (dearest) within the item's market; NaN where unknown."""
    title_I: np.ndarray
    """int32 [I + 1]: the term that is the item's whole title, -1 where none is."""
    kind_F: np.ndarray
    """int8, values of Kind."""
    count_F: np.ndarray
    """int32: items that carry the feature."""
    parts_F2: np.ndarray
    """int32 [F, 2]: the words that a phrase, category or attribute tells too; -1 for none."""
    labels: pa.Array
    """string [F]; features are ordered by kind and label."""

    @property
    def weight_F(self) -> np.ndarray:
        """Inverse document frequency, log(1 + I / items), smoothed for features of few items."""
        count_F = self.count_F.astype(np.float64)
        return np.log1p((len(self.offsets_I) - 2) / count_F) * count_F / (count_F + _SMOOTHING)

    @classmethod
    def open(cls, folder: Path) -> ItemFeatures:
        """Memory-map what ``catalogue.build`` wrote."""
        items, features = open_arrow(folder / "items.arrow"), open_arrow(folder / "features.arrow")
        lists = items["features"].chunk(0)
        return cls(
            lists.offsets.to_numpy(), lists.values.to_numpy(), items["price"].to_numpy(), items["title"].to_numpy(),
            features["kind"].to_numpy(), features["count"].to_numpy(),
            np.stack([features["first"].to_numpy(), features["second"].to_numpy()], axis=1),
            features["label"].combine_chunks())
