"""Which interactions stay: copies, weak signals, repeated pairs, k-core. Every dropped row is counted by reason.

Legend: N interactions of a block, V items.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    blocks, found = blocks.map(of_users, "filtering", config, raw.name)
    tally = Tally.joined(found)
    if config.duplicates == "error" and tally.repeats:
        assert tally.repeat is not None
        raise DataError(f"{raw.name}: {tally.repeats:,} rows repeat an item that the user had before, such as "
                        f"{raw.place(tally.repeat)}; set prepare.filter.duplicates to keep, first or last")
    tally.check(raw)
    if config.k_core > 1:
        setting = f"prepare.filter.k_core={config.k_core} ({config.mode})"
        blocks, found = blocks.map(of_core, "filtering", config.k_core,
                                   *k_core(blocks, config.k_core, iterated=config.mode == "iterated"), setting)
        tally = Tally.joined([tally, *found])
        tally.check(raw)
    return blocks, tally.dropped


@dataclass
class Tally:
    """Rows before and after each filter, in the order of the filters."""

    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    repeats: int = 0
    """Rows that repeat an item of their user."""
    repeat: int | None = None
    """Raw row of the first."""

    @classmethod
    def joined(cls, found: Iterable[Tally]) -> Tally:
        """Of all blocks, in their order."""
        whole = cls()
        for tally in found:
            for reason, (before, after) in tally.counts.items():
                earlier = whole.counts.get(reason, (0, 0))
                whole.counts[reason] = earlier[0] + before, earlier[1] + after
            whole.settings |= tally.settings
            whole.repeats += tally.repeats
            whole.repeat = tally.repeat if whole.repeat is None else whole.repeat
        return whole

    def keep(self, found: Interactions, mask: np.ndarray, reason: str, setting: str) -> Interactions:
        """The rows of the mask."""
        self.counts[reason] = len(mask), int(mask.sum())
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


def of_users(found: Interactions, config: FilterConfig, name: str) -> tuple[Interactions, Tally]:
    """What a user's own rows decide, in a block.

    Args:
        name: of the source, for messages.
    """
    tally = Tally()
    found = tally.keep(found, _no_copies(found), "exact_copy", "merging exact copies")
    if config.min_signal is not None:
        if found.signals is None:
            raise DataError(f"prepare.filter.min_signal={config.min_signal}: {name} has no signals; remove the "
                            "setting, or name the signal's column")
        setting = f"prepare.filter.min_signal={config.min_signal}"
        found = tally.keep(found, ~np.isnan(found.signals), "no_signal", setting)
        assert found.signals is not None
        found = tally.keep(found, found.signals >= config.min_signal, "low_signal", setting)
    if config.duplicates != "keep":
        stays = _one_per_pair(found, last=config.duplicates == "last")
        gone = found.rows[~stays]
        tally.repeats, tally.repeat = len(gone), int(gone[0]) if len(gone) else None
        found = tally.keep(found, stays, "repeated_pair", f"prepare.filter.duplicates={config.duplicates}")
    return found, tally


def of_core(found: Interactions, k: int, counted_V: np.ndarray | None, left_V: np.ndarray | None, setting: str
            ) -> tuple[Interactions, Tally]:
    """The rows of a block that :func:`core_rows` leaves."""
    tally = Tally()
    return tally.keep(found, core_rows(found, k, counted_V, left_V), "k_core", setting), tally


def k_core(blocks: Blocks, k: int, iterated: bool) -> tuple[np.ndarray | None, np.ndarray]:
    """What :func:`core_rows` needs to leave the rows whose user and item both have at least k rows: counted on all
    rows, or, ``iterated``, on those that are left, until nothing changes.

    A user's rows stand in one block, so what is left is told by the items alone, and each block finds its users.
    """
    if not iterated:
        return None, _item_counts(blocks, 0, None) >= k
    left_V = _item_counts(blocks, k, None) >= k
    while left_V.any():
        smaller_V = _item_counts(blocks, k, left_V) >= k
        if np.array_equal(smaller_V, left_V):
            break
        left_V = smaller_V
    return left_V, left_V


def core_rows(found: Interactions, k: int, counted_V: np.ndarray | None, left_V: np.ndarray | None) -> np.ndarray:
    """bool [N] of a block: rows of items that are left, of users with at least k rows of items that count; None: all.
    """
    if not len(found):
        return np.zeros(0, bool)
    users_N = found.users - found.users.min()
    counted_N = users_N if counted_V is None else users_N[counted_V[found.items]]
    rows_N: np.ndarray = (np.bincount(counted_N, minlength=int(users_N.max()) + 1) >= k)[users_N]
    return rows_N if left_V is None else rows_N & left_V[found.items]


def items_of_core(found: Interactions, k: int, left_V: np.ndarray | None) -> np.ndarray:
    """int64, for each item up to the block's last: its rows among those that :func:`core_rows` leaves of a block."""
    return np.bincount(found.items[core_rows(found, k, left_V, left_V)],
                       minlength=int(found.items.max(initial=-1)) + 1)


def _item_counts(blocks: Blocks, k: int, left_V: np.ndarray | None) -> np.ndarray:
    """int64 [V]: of all blocks."""
    counts_V = np.zeros(0 if left_V is None else len(left_V), np.int64)
    for more in blocks.ask(items_of_core, "counting items", k, left_V):
        counts_V = np.pad(counts_V, (0, max(0, len(more) - len(counts_V))))
        counts_V[:len(more)] += more
    return counts_V


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
