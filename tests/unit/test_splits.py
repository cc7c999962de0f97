"""Order in time, ties, and the three splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import DataError
from models.ragged import offsets_of
from pipeline.prepare.config import GlobalTemporalSplit, LeaveOneOutSplit, SessionsSplit
from pipeline.prepare.encoding import Encoded
from pipeline.prepare.hashing import draw, hashes
from pipeline.prepare.numbering import Numbering, Seen
from pipeline.prepare.ordering import Users, in_time, tied
from pipeline.prepare.raw import RAW_ROW, RawTables
from pipeline.prepare.splits import TEST_CODE, TRAIN_CODE, VALIDATION_CODE, Times, split, time_at_rank
from pipeline.store.columns import ITEM_ID, SIGNAL, TIMESTAMP, USER_ID
from tests.raw_files import encode_all, only_block

R = TypeVar("R")
T, V, X = TRAIN_CODE, VALIDATION_CODE, TEST_CODE


def raw_rows(rows: Sequence[tuple[str, str, int | None]], timeless: bool = False) -> RawTables:
    users, items, times = zip(*rows, strict=True)
    frame = pl.LazyFrame({
        RAW_ROW: range(len(rows)), USER_ID: users, ITEM_ID: items, TIMESTAMP: pl.Series(times, dtype=pl.Int64),
        SIGNAL: pl.repeat(None, len(rows), dtype=pl.Float32, eager=True)})
    return RawTables(frame, timeless=timeless)


def ordered(rows: Sequence[tuple[str, str, int | None]], seed: int = 0, timeless: bool = False) -> Encoded:
    return in_time(encode_all(raw_rows(rows, timeless)), seed)


def at(times: np.ndarray) -> Times:
    """Times in two blocks."""
    return in_blocks(np.array_split(times, 2))


def in_blocks(blocks: Sequence[np.ndarray]) -> Times:
    def ask(question: Callable[..., R], *arguments: Any) -> Iterator[R]:
        return (question(block, *arguments) for block in blocks)

    return ask


def users_of(lengths: list[int]) -> Users:
    return Users(offsets_of(lengths))


# --- order ---


def test_numbers_in_order_of_first_appearance_keep_their_ids_and_counts() -> None:
    numbering = Numbering(9)
    for rows in ([7, 3, 7], [], [0, 3]):
        numbering.add(Seen.of(np.array(rows, np.int32)))
    found = numbering.order(pl.Series([f"id{n}" for n in range(9)]))
    assert found.new[[7, 3, 7, 0, 3]].tolist() == [0, 1, 0, 2, 1] and (found.new[[1, 8]] == -1).all()
    assert found.ids.to_list() == ["id7", "id3", "id0"]
    assert found.counts_M.tolist() == [2, 2, 1]
    later = numbering.order(pl.Series([f"id{n}" for n in range(9)]), earlier=pl.Series(["id0", "gone", "id3"]))
    assert later.ids.to_list() == ["id0", "id3", "id7"] and later.counts_M.tolist() == [1, 2, 2]


def test_rows_are_sorted_by_user_of_first_row_and_then_time() -> None:
    found = ordered([("b", "x", 5), ("a", "y", 9), ("b", "z", 1), ("a", "x", 2)])
    assert found.user_ids.to_list() == ["b", "a"]
    assert only_block(found).rows.tolist() == [2, 0, 3, 1]


def test_timeless_rows_keep_their_order() -> None:
    found = ordered([("a", "x", None), ("b", "y", None), ("a", "z", None), ("a", "x", None)], timeless=True)
    assert only_block(found).rows.tolist() == [0, 2, 3, 1]
    assert only_block(found).times is None


def test_times_too_wide_for_one_integer_sort_the_same() -> None:
    late = 4 * 10**18  # nanoseconds; three users times this span does not fit into 63 bits
    rows = raw_rows([("a", "x", late), ("b", "x", 3), ("a", "y", 0), ("b", "y", late), ("c", "x", 1), ("b", "z", late)])
    found = only_block(in_time(encode_all(RawTables(rows.interactions, time_unit="ns")), 0))
    assert found.rows[:3].tolist() == [2, 0, 1]
    assert sorted(found.rows[3:5].tolist()) == [3, 5]
    assert found.rows[5] == 4


def test_ties_follow_the_seed_and_neither_file_nor_id_order() -> None:
    rows = [("a", f"i{n:02d}", 7) for n in range(40)]
    one, two = (only_block(ordered(rows, seed)).rows.tolist() for seed in (0, 1))
    assert one != two
    assert sorted(one) == sorted(two) == list(range(40))
    assert list(range(40)) not in (one, two)
    renamed = [("a", f"i{99 - n:02d}", 7) for n in range(40)]
    assert only_block(ordered(renamed, 0)).rows.tolist() == one


def test_tied_marks_rows_of_one_user_and_one_time() -> None:
    assert tied(np.array([0, 0, 0, 1, 1]), np.array([1, 1, 2, 2, 3])).tolist() == [True, True, False, False, False]


def test_milliseconds_order_rows_within_a_second_and_are_stored_as_seconds() -> None:
    start = 1_500_000_000_000
    raw = RawTables(raw_rows([("a", "x", start + 900), ("a", "y", start + 100)]).interactions, time_unit="auto")
    found = only_block(in_time(encode_all(raw), 0))
    assert found.rows.tolist() == [1, 0]
    assert found.unit == "ms"
    assert found.seconds.tolist() == [1_500_000_000, 1_500_000_000]  # type: ignore[union-attr]


# --- hashing ---


def test_hashes_differ_and_depend_on_seed_and_purpose() -> None:
    index = np.arange(1000)
    assert len(np.unique(hashes(index, 3, "ties"))) == 1000
    assert not np.array_equal(hashes(index, 3, "ties"), hashes(index, 4, "ties"))
    assert not np.array_equal(hashes(index, 3, "ties"), hashes(index, 3, "test users"))


def test_draw_gives_everyone_the_same_chance() -> None:
    counts = np.zeros(50)
    for seed in range(400):
        counts[draw(np.arange(50), 10, seed, "validation users")] += 1
    expected = 400 * 10 / 50
    assert abs(counts.mean() - expected) < 1e-9
    assert counts.min() > expected - 5 * np.sqrt(expected * 0.8)
    assert counts.max() < expected + 5 * np.sqrt(expected * 0.8)


# --- leave one out ---


def test_leave_one_out_takes_the_last_two_items_of_users_with_three() -> None:
    found = split(LeaveOneOutSplit(), users_of([4, 2, 3, 1]), None, 0)
    assert found.parts.tolist() == [T, T, V, X] + [T, T] + [T, V, X] + [T]
    assert found.validation.users.tolist() == found.test.users.tolist() == [0, 2]
    assert found.validation.targets.tolist() == [2, 4 + 2 + 1]
    assert found.test.targets.tolist() == [3, 4 + 2 + 2]


def test_leave_one_out_without_any_user_of_three_says_so() -> None:
    with pytest.raises(DataError, match=r"leave_one_out\): the validation part has no user with a history, of 2 users"):
        split(LeaveOneOutSplit(), users_of([2, 2]), None, 0)


# --- global temporal ---

LENGTHS = [3, 3, 2, 4, 1, 1]
SECONDS = np.array([1, 2, 3] + [8, 9, 12] + [4, 11] + [5, 6, 7, 10] + [20] + [2])
"""At boundary 10: users 0 and 3 end before it, 1 and 2 go on, 4 begins after it, 5 has one interaction before it."""


def test_boundary_is_inclusive_and_may_be_fixed() -> None:
    found = split(GlobalTemporalSplit(boundary=10, validation_users=0.01), users_of(LENGTHS), at(SECONDS), 0)
    assert found.boundary == 10
    assert (found.parts == X).tolist() == (SECONDS > 10).tolist()


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
def test_quantile_boundary_is_the_first_time_that_covers_the_share(quantile: float) -> None:
    found = split(GlobalTemporalSplit(quantile=quantile, validation_users=0.01), users_of(LENGTHS), at(SECONDS), 0)
    boundary = found.boundary
    assert boundary in SECONDS
    covered, below = (boundary >= SECONDS).mean(), (boundary > SECONDS).mean()
    assert covered >= quantile > below


def test_test_users_are_those_active_after_the_boundary_with_their_last_item() -> None:
    found = split(GlobalTemporalSplit(boundary=10, validation_users=0.01), users_of(LENGTHS), at(SECONDS), 0)
    assert found.test.users.tolist() == [1, 2]
    assert found.test.targets.tolist() == [5, 7]
    assert found.left_out == {"test_users_without_history": 1}


def test_validation_users_are_held_out_whole_up_to_the_boundary() -> None:
    for seed in range(20):
        found = split(GlobalTemporalSplit(boundary=10, validation_users=0.4), users_of(LENGTHS), at(SECONDS), seed)
        users = found.validation.users
        assert len(users) == round(0.4 * 5)  # five users have interactions up to the boundary
        assert set(users.tolist()) <= {0, 1, 3}  # users 2 and 5 have one interaction up to it
        row_users = np.repeat(np.arange(6), LENGTHS)
        before = SECONDS <= 10
        assert ((found.parts == V) == (np.isin(row_users, users) & before)).all()
        last_before = [int(np.flatnonzero((row_users == u) & before)[-1]) for u in users]
        assert found.validation.targets.tolist() == last_before


def test_the_seed_draws_the_validation_users() -> None:
    drawn = {tuple(split(GlobalTemporalSplit(boundary=10, validation_users=0.2), users_of(LENGTHS), at(SECONDS),
                         seed).validation.users.tolist()) for seed in range(30)}
    assert drawn == {(0,), (1,), (3,)}


def test_temporal_split_of_timeless_data_is_refused() -> None:
    with pytest.raises(DataError, match="global_temporal needs timestamps"):
        split(GlobalTemporalSplit(), users_of([3]), None, 0)


def test_boundary_after_everything_leaves_no_test_user() -> None:
    with pytest.raises(DataError, match="the test part has no user with a history"):
        split(GlobalTemporalSplit(boundary=99), users_of(LENGTHS), at(SECONDS), 0)


def test_boundary_before_everything_leaves_no_training() -> None:
    with pytest.raises(DataError, match="the training part has no interaction"):
        split(GlobalTemporalSplit(boundary=0), users_of(LENGTHS), at(SECONDS), 0)


# --- sessions ---


def test_sessions_are_held_out_whole() -> None:
    lengths = [2] * 10 + [1] * 10
    found = split(SessionsSplit(test_users=0.2, validation_users=0.1), users_of(lengths), None, 5)
    assert len(found.test.users) == round(0.2 * 20)
    assert len(found.validation.users) == round(0.1 * 20)
    assert not set(found.test.users) & set(found.validation.users)
    assert max(*found.test.users, *found.validation.users) < 10  # one item is no case
    for users, code in ((found.test.users, X), (found.validation.users, V)):
        assert [set(found.parts[2 * u:2 * u + 2].tolist()) for u in users] == [{code}] * len(users)
    assert (found.parts[20:] == T).all()
    assert found.test.targets.tolist() == (2 * found.test.users + 1).tolist()


# --- properties ---

ROWS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9), st.integers(0, 30)), min_size=1, max_size=80)


def table(rows: list[tuple[int, int, int]], user: str = "u{}", item: str = "i{}") -> list[tuple[str, str, int | None]]:
    return [(user.format(u), item.format(i), t) for u, i, t in rows]


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(0, 3), st.floats(0.05, 0.95))
def test_no_training_row_is_after_the_boundary_and_time_never_runs_backwards(
        rows: list[tuple[int, int, int]], seed: int, quantile: float) -> None:
    found = only_block(ordered(table(rows), seed))
    assert found.times is not None
    users = users_of(np.bincount(found.users).tolist())
    for start, end in zip(users.starts, users.ends, strict=True):
        assert (np.diff(found.times[start:end]) >= 0).all()
    try:
        parts = split(GlobalTemporalSplit(quantile=quantile, validation_users=0.3), users, at(found.times), seed)
    except DataError:
        return  # too few users for one of the parts
    assert parts.boundary is not None
    assert (found.times[parts.parts != X] <= parts.boundary).all()
    assert not np.isin(parts.validation.users, found.users[parts.parts == T]).any()
    for case in (parts.validation, parts.test):
        assert (found.users[case.targets] == case.users).all()
        assert (parts.parts[case.targets] != T).all()
        assert (case.targets > users.starts[case.users]).all()


@settings(max_examples=60, deadline=None)
@given(ROWS, st.permutations(range(8)), st.permutations(range(10)))
def test_renaming_raw_ids_changes_no_index(rows: list[tuple[int, int, int]], users: list[int],
                                           items: list[int]) -> None:
    plain = only_block(ordered(table(rows), 1))
    renamed = only_block(ordered(table([(users[u], items[i], t) for u, i, t in rows], "user-{}", "{}"), 1))
    assert plain.users.tolist() == renamed.users.tolist()
    assert first_seen(plain.items) == first_seen(renamed.items)
    assert plain.rows.tolist() == renamed.rows.tolist()


def first_seen(items: np.ndarray) -> list[int]:
    """Items numbered in the order of their first row."""
    numbering = Numbering(int(items.max()) + 1)
    numbering.add(Seen.of(items))
    found: list[int] = numbering.order(pl.Series([""] * (int(items.max()) + 1))).new[items].tolist()
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(-2**61, 2**61) | st.integers(0, 99), max_size=9), min_size=1, max_size=5).filter(
    any), st.integers(0, 44))
def test_the_time_at_a_rank_is_that_of_sorted_times(blocks: list[list[int]], rank: int) -> None:
    times = sorted(time for block in blocks for time in block)
    rank %= len(times)
    assert time_at_rank(in_blocks([np.array(block, np.int64) for block in blocks]), rank) == times[rank]
