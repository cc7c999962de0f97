"""The interactions that stay, with their final indices.

Legend: N interactions, M users, V items, C chosen rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from models.ragged import offsets_of
from pipeline.prepare.blocks import Blocks, Interactions
from pipeline.prepare.numbering import Numbering
from pipeline.prepare.ordering import Users
from pipeline.prepare.splits import TRAIN_CODE, Split, Times


@dataclass(frozen=True)
class KeptInteractions:
    """N interactions, sorted by user and time."""

    blocks: Blocks
    """Users 0…M-1, items 1…V."""
    users: Users
    user_ids: pl.Series
    """String [M]."""
    item_ids: pl.Series
    """String [V]; entry i is item i + 1."""
    timeless: bool = False

    @classmethod
    def of(cls, blocks: Blocks, user_ids: pl.Series, item_ids: pl.Series, timeless: bool = False,
           earlier: pl.Series | None = None) -> KeptInteractions:
        """Number users and items in the order in which sorted rows have them.

        Args:
            user_ids: raw ids by the blocks' numbers, as ``item_ids``.
            earlier: raw ids of items that come first.
        """
        of_users, of_items = Numbering(len(user_ids)), Numbering(len(item_ids))
        for block in blocks:
            of_users.add(block.users)
            of_items.add(block.items)
        users, items = of_users.order(user_ids), of_items.order(item_ids, earlier)
        number = items.new + np.int32(1)

        def numbered(found: Interactions) -> Interactions:
            return replace(found, users=users.new[found.users], items=number[found.items])

        return cls(blocks.map(numbered, "numbering"), Users(offsets_of(users.counts_M)), users.ids, items.ids, timeless)

    def __len__(self) -> int:
        return int(self.users.offsets[-1])

    def pieces(self) -> Iterator[tuple[slice, Interactions]]:
        """Each block with the places of its rows among all rows."""
        start = 0
        for block in self.blocks:
            yield slice(start, start + len(block)), block
            start += len(block)

    @property
    def times(self) -> Times | None:
        """The times of all rows, block by block, in the blocks' unit; None: timeless."""
        if self.timeless:
            return None
        return lambda: (block.times for block in self.blocks if block.times is not None)

    def items_of(self, rows_C: np.ndarray) -> np.ndarray:
        """int32 [C]: the items of rows that are given by their places."""
        items_C = np.zeros(len(rows_C), np.int32)
        for place, block in self.pieces():
            here = (rows_C >= place.start) & (rows_C < place.stop)
            items_C[here] = block.items[rows_C[here] - place.start]
        return items_C

    def trained_items(self, split: Split) -> np.ndarray:
        """int64 [V + 1]: training interactions of each item; entry 0 is padding and nothing else."""
        counts = np.zeros(len(self.item_ids) + 1, np.int64)
        for place, block in self.pieces():
            counts += np.bincount(block.items[split.parts[place] == TRAIN_CODE], minlength=len(counts))
        return counts

    def trained_users(self, split: Split) -> np.ndarray:
        """int64 [M]: training interactions of each user."""
        return self.users.sums(split.parts == TRAIN_CODE)
