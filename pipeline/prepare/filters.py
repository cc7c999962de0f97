"""Which interactions stay: copies, weak signals, repeated pairs, k-core. Every dropped row is counted by reason.

Legend: N interactions of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from configs.errors import DataError
from pipeline.prepare.blocks import Blocks, Interactions
from pipeline.prepare.config import FilterConfig
from pipeline.prepare.ordering import tied
from pipeline.prepare.raw import RawTables


def apply_filters(blocks: Blocks, config: FilterConfig, raw: RawTables) -> tuple[Blocks, dict[str, int]]:
    """The interactions that stay, in the same order, and reason → rows dropped.

    Args:
        blocks: sorted by ``ordering.in_time``.
        raw: where the interactions come from, for messages.

    Raises:
        DataError: a filter leaves nothing (named), needs a signal that is not there, or finds a repeated pair that
            ``duplicates="error"`` forbids.
    """
    tally, repeats = _Tally(), _Repeats()

    def of_users(found: Interactions) -> Interactions:
        """What a user's own rows decide."""
        found = tally.keep(found, _no_copies(found), "exact_copy", "merging exact copies")
        if config.min_signal is not None:
            if found.signals is None:
                raise DataError(f"prepare.filter.min_signal={config.min_signal}: {raw.name} has no signals; remove "
                                "the setting, or name the signal's column")
            setting = f"prepare.filter.min_signal={config.min_signal}"
            found = tally.keep(found, ~np.isnan(found.signals), "no_signal", setting)
            assert found.signals is not None
            found = tally.keep(found, found.signals >= config.min_signal, "low_signal", setting)
        if config.duplicates != "keep":
            stays = _one_per_pair(found, last=config.duplicates == "last")
            repeats.add(found, stays)
            found = tally.keep(found, stays, "repeated_pair", f"prepare.filter.duplicates={config.duplicates}")
        return found

    blocks = blocks.map(of_users, "filtering")
    if config.duplicates == "error" and repeats.rows:
        raise DataError(f"{raw.name}: {repeats.rows:,} rows repeat an item that the user had before, such as "
                        f"{raw.place(repeats.example)}; set prepare.filter.duplicates to keep, first or last")
    tally.check(raw)
    if config.k_core > 1:
        masks = iter(k_core(blocks, config.k_core, iterated=config.mode == "iterated"))
        setting = f"prepare.filter.k_core={config.k_core} ({config.mode})"
        blocks = blocks.map(lambda found: tally.keep(found, next(masks), "k_core", setting), "filtering")
        tally.check(raw)
    return blocks, tally.dropped


def k_core(blocks: Blocks, k: int, iterated: bool) -> list[np.ndarray]:
    """bool [N] for each block: rows whose user and item both have at least k rows; ``iterated`` repeats on what is
    left."""
    masks = [np.ones(len(found), bool) for found in blocks]
    while True:
        smaller = [mask & (users >= k) & (items >= k) for mask, users, items in _counts(blocks, masks)]
        stay = sum(int(mask.sum()) for mask in smaller)
        if not iterated or not stay or stay == sum(int(mask.sum()) for mask in masks):
            return smaller
        masks = smaller


def _counts(blocks: Blocks, masks: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each block its mask, and int64 [N] how many rows of the masks its rows' users and items have."""
    items = np.zeros(0, np.int64)
    for found, mask in zip(blocks, masks, strict=True):
        here = np.bincount(found.items[mask], minlength=max(len(items), int(found.items.max(initial=-1)) + 1))
        here[:len(items)] += items
        items = here
    for found, mask in zip(blocks, masks, strict=True):
        first = int(found.users.min(initial=np.iinfo(np.int32).max))
        users = found.users - first if len(found) else found.users
        of_users = np.bincount(users[mask], minlength=int(users.max(initial=-1)) + 1)
        yield mask, of_users[users], items[found.items]


@dataclass
class _Tally:
    """Rows before and after each filter, in the order of the filters, over all blocks."""

    counts: dict[str, list[int]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)

    def keep(self, found: Interactions, mask: np.ndarray, reason: str, setting: str) -> Interactions:
        """The rows of the mask."""
        before_after = self.counts.setdefault(reason, [0, 0])
        before_after[0] += len(mask)
        before_after[1] += int(mask.sum())
        self.settings[reason] = setting
        return found.take(mask)

    def check(self, raw: RawTables) -> None:
        """Raise where a filter left nothing."""
        for reason, (before, after) in self.counts.items():
            if not after:
                raise DataError(f"{raw.name}: {self.settings[reason]} leaves none of the {before:,} interactions; "
                                "loosen it")

    @property
    def dropped(self) -> dict[str, int]:
        return {reason: before - after for reason, (before, after) in self.counts.items() if before > after}


@dataclass
class _Repeats:
    """Rows that repeat an item of their user."""

    rows: int = 0
    example: int = -1
    """Raw row of the first."""

    def add(self, found: Interactions, stays: np.ndarray) -> None:
        gone = np.flatnonzero(~stays)
        if len(gone) and not self.rows:
            self.example = int(found.rows[gone[0]])
        self.rows += len(gone)


def _no_copies(found: Interactions) -> np.ndarray:
    """bool [N]: not a copy of an earlier raw row with the same user, item and time. Timeless rows are events."""
    mask = np.ones(len(found), bool)
    if found.times is None:
        return mask
    ties = np.flatnonzero(tied(found.users, found.times))
    order = ties[np.lexsort((found.rows[ties], found.items[ties], found.times[ties], found.users[ties]))]
    copies = np.ones(max(len(order) - 1, 0), bool)
    for column in (found.users, found.times, found.items):
        copies &= column[order[1:]] == column[order[:-1]]
    mask[order[1:][copies]] = False
    return mask


def _one_per_pair(found: Interactions, last: bool) -> np.ndarray:
    """bool [N]: the first (last) row of its user and item."""
    pairs = pl.Series(found.users * np.int64(int(found.items.max(initial=0)) + 1) + found.items)
    return np.asarray((pairs.is_last_distinct() if last else pairs.is_first_distinct()).to_numpy())
