"""Which interactions stay: copies, weak signals, repeated pairs, k-core. Every dropped row is counted by reason."""

from __future__ import annotations

import numpy as np
import polars as pl

from configs.errors import DataError
from pipeline.prepare.config import FilterConfig
from pipeline.prepare.encoding import Interactions
from pipeline.prepare.ordering import tied
from pipeline.prepare.raw import RawTables


def apply_filters(found: Interactions, config: FilterConfig, raw: RawTables) -> tuple[Interactions, dict[str, int]]:
    """The interactions that stay, in the same order, and reason → rows dropped.

    Args:
        found: sorted by ``ordering.in_time``.
        raw: where the interactions come from, for messages.

    Raises:
        DataError: a filter leaves nothing (named), needs a signal that is not there, or finds a repeated pair that
            ``duplicates="error"`` forbids.
    """
    dropped: dict[str, int] = {}

    def keep(mask: np.ndarray, reason: str, setting: str) -> None:
        nonlocal found
        removed = int(len(mask) - mask.sum())
        if removed == len(mask):
            raise DataError(f"{raw.name}: {setting} leaves none of the {len(mask):,} interactions; loosen it")
        if removed:
            dropped[reason] = removed
            found = found.take(mask)

    keep(_no_copies(found), "exact_copy", "merging exact copies")
    if config.min_signal is not None:
        if found.signals is None:
            raise DataError(f"prepare.filter.min_signal={config.min_signal}: {raw.name} has no signals; remove the "
                            "setting, or name the signal's column")
        setting = f"prepare.filter.min_signal={config.min_signal}"
        keep(~np.isnan(found.signals), "no_signal", setting)
        keep(found.signals >= config.min_signal, "low_signal", setting)
    if config.duplicates != "keep":
        keep(_one_per_pair(found, config, raw), "repeated_pair", f"prepare.filter.duplicates={config.duplicates}")
    if config.k_core > 1:
        keep(k_core(found, config.k_core, iterated=config.mode == "iterated"), "k_core",
             f"prepare.filter.k_core={config.k_core} ({config.mode})")
    return found, dropped


def k_core(found: Interactions, k: int, iterated: bool) -> np.ndarray:
    """bool [N]: rows whose user and item both have at least k rows; ``iterated`` repeats on what is left."""
    mask = np.ones(len(found), bool)
    while True:
        users = np.bincount(found.users[mask], minlength=int(found.users.max()) + 1)
        items = np.bincount(found.items[mask], minlength=int(found.items.max()) + 1)
        smaller: np.ndarray = mask & (users[found.users] >= k) & (items[found.items] >= k)
        if not iterated or smaller.sum() == mask.sum() or not smaller.any():
            return smaller
        mask = smaller


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


def _one_per_pair(found: Interactions, config: FilterConfig, raw: RawTables) -> np.ndarray:
    pairs = pl.Series(found.users * np.int64(int(found.items.max()) + 1) + found.items)
    stays = pairs.is_last_distinct() if config.duplicates == "last" else pairs.is_first_distinct()
    mask = np.asarray(stays.to_numpy())
    if config.duplicates == "error" and not mask.all():
        row = int(np.flatnonzero(~mask)[0])
        raise DataError(f"{raw.name}: {int((~mask).sum()):,} rows repeat an item that the user had before, such as "
                        f"{raw.place(int(found.rows[row]))}; set prepare.filter.duplicates to keep, first or last")
    return mask
