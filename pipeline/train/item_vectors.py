"""The items' text vectors as one dense array, their own or those of a control.

Legend: V items 1…n, T items with a vector, E width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from safetensors.numpy import load_file

from configs.errors import DataError
from pipeline.store.arrow import numbers
from pipeline.store.columns import ITEM_IDX, VECTOR
from pipeline.store.tensors import save_file
from pipeline.train.seeds import Stream, generator
from pipeline.train.teaching_config import TextControl
from pipeline.work.shuffle import derangement, noise_like

if TYPE_CHECKING:
    from pipeline.train.collaborative import TrainingMatrix


@dataclass(frozen=True)
class ItemVectors:
    """One row per item; rows of items without a vector are 0."""

    vectors_VE: np.ndarray
    """fp32."""
    known_V: np.ndarray
    """bool."""

    @classmethod
    def from_table(cls, table: pa.Table, num_items: int) -> ItemVectors:
        """From ITEM_IDX and VECTOR of the encoded item texts.

        Raises:
            DataError: a vector belongs to no item of the catalogue.
        """
        items, column = numbers(table[ITEM_IDX]), table.combine_chunks()[VECTOR].chunk(0)
        return cls.of(items, numbers(column.flatten()).reshape(len(items), column.type.list_size), num_items)

    @classmethod
    def of(cls, items: np.ndarray, vectors_TE: np.ndarray, num_items: int) -> ItemVectors:
        """From items and their vectors.

        Raises:
            DataError: a vector belongs to no item of the catalogue.
        """
        if len(items) and not 1 <= items.min() <= items.max() <= num_items:
            raise DataError(f"item vectors: item_idx {items.min()}…{items.max()}, and the catalogue has "
                            f"1…{num_items}; rebuild the items' artifact")
        vectors_VE = np.zeros((num_items, vectors_TE.shape[1]), np.float32)
        known_V = np.zeros(num_items, np.bool_)
        vectors_VE[items - 1], known_V[items - 1] = vectors_TE, True
        return cls(vectors_VE, known_V)

    def controlled(self, control: TextControl, seed: int, train: TrainingMatrix) -> ItemVectors:
        """The same, or what stands in its place: each item's vector exchanged for another item's, Gaussian noise of
        the vectors' mean and covariance, so that only what the vectors know of their items is missing, or what the
        training matrix knows of the items."""
        places = np.flatnonzero(self.known_V)
        if control == "none" or len(places) < 2:
            return self
        vectors_VE = self.vectors_VE.copy()
        own_TE = self.vectors_VE[places]
        if control == "shuffled":
            vectors_VE[places] = own_TE[derangement(len(places), generator(seed, Stream.SHUFFLED_ITEMS))]
        elif control == "collaborative":
            vectors_VE[places] = train.items(own_TE.shape[1])[places]
        else:
            vectors_VE[places] = noise_like(own_TE, generator(seed, Stream.RANDOM_ITEMS))
        return replace(self, vectors_VE=vectors_VE)

    def save(self, path: Path) -> None:
        """As safetensors, for the workers."""
        save_file({"vectors": self.vectors_VE, "known": self.known_V}, path)

    @classmethod
    def load(cls, path: Path) -> ItemVectors:
        """What :meth:`save` wrote."""
        tensors = load_file(path)
        return cls(tensors["vectors"], tensors["known"])
