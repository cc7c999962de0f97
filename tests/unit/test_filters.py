"""Filters: what stays, in which order, and how every dropped row is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from configs.errors import DataError
from pipeline.prepare.blocks import Blocks, Interactions
from pipeline.prepare.config import FilterConfig
from pipeline.prepare.filters import apply_filters, core_rows, k_core
from pipeline.prepare.raw import RawTables
from tests.raw_files import place_in

RAW = RawTables(pl.LazyFrame(), name="rows.csv")
PLACE = place_in(Path("not-there"), 10**6)


def interactions(rows: list[tuple[int, int, int]], signals: list[float] | None = None,
                 timeless: bool = False) -> Interactions:
    """(user, item, time) rows, already in order."""
    users, items, times = (np.array(column) for column in zip(*rows, strict=True))
    return Interactions(users.astype(np.int32), items.astype(np.int32), None if timeless else times.astype(np.int64),
                        None if signals is None else np.array(signals, np.float32), np.arange(len(rows)))


def kept_rows(found: Interactions, config: FilterConfig) -> tuple[list[int], dict[str, int]]:
    kept, dropped = apply_filters(Blocks(found, "s", PLACE), config, RAW)
    (left,) = kept
    return left.rows.tolist(), dropped


def test_nothing_is_dropped_by_default() -> None:
    assert kept_rows(interactions([(0, 0, 1), (0, 0, 2), (1, 0, 1)]), FilterConfig()) == ([0, 1, 2], {})


def test_exact_copies_merge_into_the_first_raw_row() -> None:
    found = interactions([(0, 1, 5), (0, 2, 5), (0, 1, 5), (0, 1, 6), (1, 1, 5)])
    assert kept_rows(found, FilterConfig()) == ([0, 1, 3, 4], {"exact_copy": 1})


def test_copies_are_found_wherever_the_tie_order_put_them() -> None:
    found = interactions([(0, 1, 5), (0, 2, 5), (0, 1, 5)])
    found = Interactions(found.users, found.items, found.times, None, np.array([9, 4, 3]))
    assert kept_rows(found, FilterConfig()) == ([4, 3], {"exact_copy": 1})


def test_a_timeless_repeat_is_an_event_and_no_copy() -> None:
    assert kept_rows(interactions([(0, 1, 0), (0, 1, 0)], timeless=True), FilterConfig()) == ([0, 1], {})


def test_min_signal_drops_lower_and_missing_signals_and_keeps_the_bound() -> None:
    found = interactions([(0, 1, 1), (0, 2, 2), (0, 3, 3)], [4.0, 3.5, float("nan")])
    assert kept_rows(found, FilterConfig(min_signal=4.0)) == ([0], {"no_signal": 1, "low_signal": 1})


def test_min_signal_without_signals_says_so() -> None:
    with pytest.raises(DataError, match=r"min_signal=3.0: rows.csv has no signals"):
        kept_rows(interactions([(0, 1, 1)]), FilterConfig(min_signal=3.0))


@pytest.mark.parametrize(("policy", "expected"), [("keep", [0, 1, 2]), ("first", [0, 1]), ("last", [1, 2])])
def test_repeated_pairs(policy: str, expected: list[int]) -> None:
    found = interactions([(0, 1, 1), (0, 2, 2), (0, 1, 3)])
    dropped = {} if policy == "keep" else {"repeated_pair": 1}
    assert kept_rows(found, FilterConfig(duplicates=policy)) == (expected, dropped)


def test_repeated_pair_is_an_error_on_request_and_named() -> None:
    with pytest.raises(DataError, match=r"1 rows repeat an item that the user had before, such as data row 3"):
        kept_rows(interactions([(0, 1, 1), (0, 2, 2), (0, 1, 3)]), FilterConfig(duplicates="error"))


# user 0 has items 0 1 2, user 1 has 0 1, user 2 has 2: item 2 falls with user 2, then user 0 still has 2.
CHAIN = [(0, 0, 1), (0, 1, 2), (0, 2, 3), (1, 0, 1), (1, 1, 2), (2, 2, 1)]


def test_k_core_once_counts_the_raw_data() -> None:
    assert kept_rows(interactions(CHAIN), FilterConfig(k_core=2, mode="once")) == ([0, 1, 2, 3, 4], {"k_core": 1})


def test_k_core_iterated_goes_on_until_nothing_changes() -> None:
    assert kept_rows(interactions(CHAIN), FilterConfig(k_core=2)) == ([0, 1, 3, 4], {"k_core": 2})


@pytest.mark.parametrize("k", [2, 3, 4])
def test_iterated_k_core_leaves_only_users_and_items_of_k(k: int) -> None:
    rng = np.random.default_rng(k)
    found = interactions([(int(u), int(i), n) for n, (u, i) in enumerate(rng.integers(0, 12, (120, 2)))])
    mask = core_rows(found, k, *k_core(Blocks(found, "s", PLACE), k, iterated=True))
    for column in (found.users[mask], found.items[mask]):
        counts = np.bincount(column)
        assert (counts[counts > 0] >= k).all()


@pytest.mark.parametrize("k", [0, 1])
def test_k_core_of_zero_and_one_is_off(k: int) -> None:
    assert kept_rows(interactions([(0, 0, 1)]), FilterConfig(k_core=k)) == ([0], {})


@pytest.mark.parametrize(("config", "named"), [
    (FilterConfig(k_core=9), r"prepare.filter.k_core=9 \(iterated\) leaves none of the 6 interactions"),
    (FilterConfig(min_signal=9.0), r"prepare.filter.min_signal=9.0 leaves none of the 6"),
])
def test_the_filter_that_empties_the_data_is_named(config: FilterConfig, named: str) -> None:
    with pytest.raises(DataError, match=named):
        kept_rows(interactions(CHAIN, [1.0] * 6), config)


def test_filters_run_in_order_signal_pairs_core() -> None:
    found = interactions([(0, 0, 1), (0, 0, 2), (0, 1, 3), (1, 0, 1), (1, 1, 2)], [1, 5, 5, 5, 5])
    config = FilterConfig(min_signal=2.0, duplicates="first", k_core=2)
    assert kept_rows(found, config) == ([1, 2, 3, 4], {"low_signal": 1})
