"""Test targets made cold: the paper's protocol as we read it; no code of it was published.

Of the items that are test targets a seeded share is chosen. Some lose all their training interactions (*removed*), the
others keep a few, drawn at random (*cut*). The test part stays as it is, so every recommender is asked for them; test
histories lose what training lost.

Legend: N interactions, C chosen items, M users.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import DataError
from models.ragged import offsets_of
from pipeline.prepare.blocks import Interactions
from pipeline.prepare.config import ColdStartConfig
from pipeline.prepare.definition import BEFORE, COLD, COLD_FILE, CUT, REMOVED
from pipeline.prepare.hashing import draw, hashes
from pipeline.prepare.kept import KeptInteractions
from pipeline.prepare.ordering import Users
from pipeline.prepare.splits import TRAIN_CODE, CaseRows, Split
from pipeline.store.columns import COUNT, ITEM_ID, ITEM_IDX


@dataclass(frozen=True)
class ColdItems:
    """The chosen items, ascending."""

    items_C: np.ndarray
    """int64, 1…V."""
    removed_C: np.ndarray
    """bool; the others are cut."""
    before_C: np.ndarray
    """int64, training interactions before."""
    left_C: np.ndarray
    """int64, and after: 0 of the removed ones; of the cut ones never more than before."""

    def write(self, folder: Path, item_ids: pa.Array) -> None:
        """``cold_items.parquet``: which items, what became of them."""
        pq.write_table(pa.table({
            ITEM_IDX: pa.array(self.items_C, pa.int32()), ITEM_ID: item_ids.take(pa.array(self.items_C - 1)),
            COLD: np.where(self.removed_C, REMOVED, CUT), BEFORE: self.before_C.astype(np.int32),
            COUNT: self.left_C.astype(np.int32)}), folder / COLD_FILE)


def choose(config: ColdStartConfig, kept: KeptInteractions, parts: Split, seed: int) -> ColdItems:
    """Draw the items and how much each keeps; a function of the seed and the item indices alone.

    Raises:
        DataError: the share is of too few targets to hold one.
    """
    targets = np.unique(kept.items_of(parts.test.targets)).astype(np.int64)
    items_C = draw(targets, round(config.share * len(targets)), seed, "cold items")
    if not len(items_C):
        raise DataError(f"prepare.cold_start.share={config.share:g} of {len(targets)} items that are test targets is "
                        "none; raise it, or use more data")
    removed = draw(items_C, round(config.removed * len(items_C)), seed, "removed items")
    removed_C = np.isin(items_C, removed)
    counts = kept.trained_items(parts)
    spread = np.uint64(config.most - config.least + 1)
    wanted_C = config.least + (hashes(items_C, seed, "cut lengths") % spread).astype(np.int64)
    left_C = np.where(removed_C, 0, np.minimum(wanted_C, counts[items_C]))
    return ColdItems(items_C, removed_C, counts[items_C], left_C)


def rows_that_stay(cold: ColdItems, kept: KeptInteractions, parts: Split, seed: int) -> np.ndarray:
    """bool [N]: all rows but those that the chosen items lose in the training part; which ones is drawn."""
    left_V = np.full(len(kept.item_ids) + 1, len(kept), np.int64)
    left_V[cold.items_C] = cold.left_C
    asked = kept.blocks.ask(rows_of_items, "finding cold items", cold.items_C, each=kept.trained(parts))
    found = [(place.start + rows, items) for place, (rows, items) in zip(kept.places(), asked, strict=True)]
    rows, items = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((hashes(rows, seed, "cut rows"), items))
    rows, items = rows[order], items[order]
    place = np.arange(len(rows)) - np.searchsorted(items, items)
    stay = np.ones(len(kept), bool)
    stay[rows[place >= left_V[items]]] = False
    return stay


def rows_of_items(block: Interactions, items_C: np.ndarray, chosen_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the chosen rows of a block, places and items of those whose item is one of some."""
    rows = np.flatnonzero(chosen_N & np.isin(block.items, items_C))
    return rows, block.items[rows]


def without(kept: KeptInteractions, parts: Split, stay_N: np.ndarray) -> tuple[KeptInteractions, Split]:
    """The rows that stay, with their users numbered anew: users without any row go. Cases without a history go, too.

    Raises:
        DataError: nothing is left to train on, to validate or to test.
    """
    lengths_M = kept.users.sums(stay_N)
    left_M = lengths_M > 0
    users = Users(offsets_of(lengths_M[left_M]))
    place_N = np.cumsum(stay_N, dtype=np.int64)
    place_N -= 1
    number_M = np.where(left_M, np.cumsum(left_M) - 1, -1)
    validation, test = (_moved(cases, place_N, number_M, users) for cases in (parts.validation, parts.test))
    lost = {f"{name}_users_without_history_by_cold_start": len(before.users) - len(after.users)
            for name, before, after in (("validation", parts.validation, validation), ("test", parts.test, test))}
    found = Split(parts.parts[stay_N], validation, test, parts.boundary, {**(parts.left_out or {}), **lost})
    if not (found.parts == TRAIN_CODE).any() or not len(found.validation.users) or not len(found.test.users):
        raise DataError("prepare.cold_start: without the chosen items' interactions nothing is left to train on, to "
                        "validate or to test; use more data, or a smaller prepare.cold_start.share")
    blocks, _ = kept.blocks.map(left, "removing cold items", number_M.astype(np.int32),
                                each=[stay_N[place] for place in kept.places()])
    return replace(kept, blocks=blocks, users=users, user_ids=kept.user_ids.filter(pl.Series(left_M))), found


def left(block: Interactions, number_M: np.ndarray, stay_N: np.ndarray) -> tuple[Interactions, None]:
    """The rows of a block that stay, with their users' new numbers."""
    staying = block.take(stay_N)
    return replace(staying, users=number_M[staying.users]), None


def _moved(cases: CaseRows, place_N: np.ndarray, number_M: np.ndarray, users: Users) -> CaseRows:
    """Cases in the new numbers of users and rows; targets are held-out rows, which all stay."""
    who, targets = number_M[cases.users], place_N[cases.targets]
    able = targets > users.starts[who]
    return CaseRows(who[able], targets[able])
