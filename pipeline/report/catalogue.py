"""Items and histories of `prepare`, looked up by index."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.store.arrays import cases, training_sequences
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import CATEGORY, COUNT, ITEM_ID, TITLE, USER_IDX
from pipeline.work.text import shorten

_TITLE_WIDTH = 90


@dataclass(frozen=True)
class Items:
    """Titles, categories and training counts; row i is item i + 1."""

    titles: list[str]
    """The raw id where there is no title."""
    counts_V: np.ndarray
    """Training interactions; 0 = cold."""
    categories: list[str | None]

    @classmethod
    def read(cls, prepared: Artifact) -> Items:
        """From a `prepare` artifact."""
        table = prepared.read_table("items.parquet", [ITEM_ID, TITLE, CATEGORY, COUNT])
        titles = [shorten(title or raw, _TITLE_WIDTH)
                  for title, raw in zip(table[TITLE].to_pylist(), table[ITEM_ID].to_pylist(), strict=True)]
        return cls(titles, table[COUNT].to_numpy(), table[CATEGORY].to_pylist())

    def title(self, item: int) -> str:
        """Of an item, 1…n."""
        return self.titles[item - 1]

    def main_category(self, items: np.ndarray) -> str | None:
        """The most frequent category; of several the first by name; None where no item has one."""
        counted = Counter(name for name in (self.categories[i - 1] for i in items.tolist()) if name)
        return min(counted, key=lambda name: (-counted[name], name)) if counted else None


def rows_of_users(artifact: Artifact, name: str, columns: list[str], users: list[int]) -> pa.Table:
    """The rows of a few users."""
    return artifact.read_rows(name, (USER_IDX, "in", users), [USER_IDX, *columns])


class Histories:
    """What a user's training part and test history hold."""

    def __init__(self, prepared: Artifact) -> None:
        self._users_N, self._train = training_sequences(prepared.local("train.arrow"))
        self._order_N = np.argsort(self._users_N, kind="stable")
        self._test = cases(prepared.local("test.arrow"))
        self._test_order_N = np.argsort(self._test.users, kind="stable")

    def training(self, user: int) -> np.ndarray:
        """Training items in time order; none for a user who is not trained on."""
        place = _place(self._users_N, self._order_N, user)
        return np.zeros(0, np.int32) if place is None else self._train[place]

    def test(self, user: int) -> np.ndarray:
        """What the recommenders saw of a test user, in time order."""
        place = _place(self._test.users, self._test_order_N, user)
        return np.zeros(0, np.int32) if place is None else self._test.histories[place]


def _place(users_N: np.ndarray, order_N: np.ndarray, user: int) -> int | None:
    """Where a user stands; ``order_N`` sorts them."""
    place = int(np.searchsorted(users_N, user, sorter=order_N))
    if place == len(order_N) or users_N[order_N[place]] != user:
        return None
    return int(order_N[place])
