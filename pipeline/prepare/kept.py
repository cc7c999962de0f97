"""The interactions that stay, with their final indices.

Legend: N interactions, M users, V items, C chosen rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import polars as pl

from models.ragged import offsets_of
from pipeline.prepare.blocks import Blocks, Interactions
from pipeline.prepare.numbering import Numbering, Seen, earlier_first
from pipeline.prepare.ordering import Users
from pipeline.prepare.splits import TRAIN_CODE, Split, Times

T = TypeVar("T")


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
        for seen_users, seen_items in blocks.ask(seen, "numbering"):
            of_users.add(seen_users)
            of_items.add(seen_items)
        users, items = of_users.order(user_ids), of_items.order(item_ids, earlier)
        blocks, _ = blocks.map(numbered, "numbering", users.new, items.new + np.int32(1))
        return cls(blocks, Users(offsets_of(users.counts_M)), users.ids, items.ids, timeless)

    def with_items(self, others: pl.Series, earlier: pl.Series | None = None) -> KeptInteractions:
        """The same with further items behind all, or, where ``earlier`` names them, among those, in its order.

        Args:
            others: raw ids of items without a row.
        """
        ids = pl.concat([self.item_ids, others])
        if earlier is None:
            return replace(self, item_ids=ids)
        order = earlier_first(ids, earlier)
        new = np.zeros(len(ids) + 1, np.int32)
        new[order + 1] = np.arange(1, len(ids) + 1, dtype=np.int32)
        blocks, _ = self.blocks.map(numbered, "numbering", np.arange(len(self.user_ids), dtype=np.int32), new)
        return replace(self, item_ids=ids[order], blocks=blocks)

    def __len__(self) -> int:
        return int(self.users.offsets[-1])

    def places(self) -> Iterator[slice]:
        """Of each block, the places of its rows among all rows."""
        start = 0
        for size in self.blocks.sizes:
            yield slice(start, start + size)
            start += size

    def pieces(self) -> Iterator[tuple[slice, Interactions]]:
        """Each block with the places of its rows among all rows."""
        return zip(self.places(), self.blocks, strict=True)

    @property
    def times(self) -> Times | None:
        """Of all rows, block by block, in the blocks' unit; None: timeless."""
        return None if self.timeless else self._ask_times

    def _ask_times(self, question: Callable[..., T], *arguments: Any) -> Iterator[T]:
        return self.blocks.ask(of_times, "looking at times", question, *arguments)

    def items_of(self, rows_C: np.ndarray) -> np.ndarray:
        """int32 [C]: the items of rows that are given by their places."""
        items_C = np.zeros(len(rows_C), np.int32)
        here = [np.flatnonzero((rows_C >= place.start) & (rows_C < place.stop)) for place in self.places()]
        inside = [rows_C[found] - place.start for found, place in zip(here, self.places(), strict=True)]
        for found, items in zip(here, self.blocks.ask(items_at, "looking at targets", each=inside), strict=True):
            items_C[found] = items
        return items_C

    def trained_items(self, split: Split) -> np.ndarray:
        """int64 [V + 1]: training interactions of each item; entry 0 is padding and nothing else."""
        counts = np.zeros(len(self.item_ids) + 1, np.int64)
        for more in self.blocks.ask(counts_of_items, "counting training rows", each=self.trained(split)):
            counts[:len(more)] += more
        return counts

    def trained(self, split: Split) -> list[np.ndarray]:
        """bool [N] for each block: which rows are of the training part."""
        return [split.parts[place] == TRAIN_CODE for place in self.places()]

    def trained_users(self, split: Split) -> np.ndarray:
        """int64 [M]: training interactions of each user."""
        return self.users.sums(split.parts == TRAIN_CODE)


def seen(found: Interactions) -> tuple[Seen, Seen]:
    """The users and items of a block."""
    return Seen.of(found.users), Seen.of(found.items)


def of_times(found: Interactions, question: Callable[..., T], *arguments: Any) -> T:
    """A question about the times of a block that has some."""
    return question(found.times, *arguments)


def items_at(found: Interactions, rows_C: np.ndarray) -> np.ndarray:
    """int32 [C]: items of some rows of a block."""
    return found.items[rows_C]


def counts_of_items(found: Interactions, chosen_N: np.ndarray) -> np.ndarray:
    """int64, for each item up to the block's last: its rows among the chosen ones."""
    return np.bincount(found.items[chosen_N])


def numbered(found: Interactions, users: np.ndarray, items: np.ndarray) -> tuple[Interactions, None]:
    """A block under other numbers.

    Args:
        users: of each number the new one, as ``items``.
    """
    return replace(found, users=users[found.users], items=items[found.items]), None
