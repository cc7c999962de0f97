"""Which part every interaction belongs to, and the held-out cases: method, dataset section.

A case is a user, a target row and what stands before it: histories and training parts are always the first rows of
their user, so a split is three small arrays and never copies an interaction.

Legend: N interactions sorted by user and time, M users, C cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol, TypeVar

import numpy as np

from configs.errors import DataError
from pipeline.prepare.config import GlobalTemporalSplit, LeaveOneOutSplit, SessionsSplit, SplitConfig
from pipeline.prepare.hashing import Purpose, draw
from pipeline.prepare.ordering import Users

TRAIN_CODE, VALIDATION_CODE, TEST_CODE = 0, 1, 2
T = TypeVar("T")
_RANGES = 1 << 16


@dataclass(frozen=True)
class CaseRows:
    """C held-out cases, users ascending, each user once."""

    users: np.ndarray
    """int64 [C]."""
    targets: np.ndarray
    """int64 [C]: the target's row; the history is all rows of the user before it, at least one."""


@dataclass(frozen=True)
class Split:
    """The parts of N interactions."""

    parts: np.ndarray
    """uint8 [N]: TRAIN_CODE, VALIDATION_CODE or TEST_CODE; a user's training rows come first."""
    validation: CaseRows
    test: CaseRows
    boundary: int | float | None = None
    """Unix seconds, to the fraction that the times have; training has nothing after it."""
    left_out: dict[str, int] | None = None
    """Users that would be cases but have no history: reason → count."""


class Times(Protocol):
    """int64 times of sorted rows, block by block."""

    def __call__(self, question: Callable[..., T], *arguments: Any) -> Iterator[T]:
        """What ``question(times, *arguments)`` says of each block; a function that can be imported by name."""


def split(config: SplitConfig, users: Users, times: Times | None, seed: int, per_second: int = 1) -> Split:
    """Split sorted interactions.

    Args:
        config: leave-one-out, global temporal or sessions.
        users: where each user's rows stand.
        times: of all rows; None: timeless.
        seed: draws held-out users, by index and never by raw id.
        per_second: units of ``times`` in a second.

    Raises:
        DataError: the source has no time and the split needs it, or a part would be empty.
    """
    match config:
        case LeaveOneOutSplit():
            found = _leave_one_out(users)
        case GlobalTemporalSplit():
            if times is None:
                raise DataError("prepare.split.kind=global_temporal needs timestamps and the source has none; "
                                "use leave_one_out or sessions")
            found = _global_temporal(config, users, times, seed, per_second)
        case SessionsSplit():
            found = _sessions(config, users, seed)
    sizes = {"training part has no interaction": int((found.parts == TRAIN_CODE).sum()),
             "validation part has no user with a history": len(found.validation.users),
             "test part has no user with a history": len(found.test.users)}
    for what, size in sizes.items():
        if not size:
            raise DataError(f"prepare.split ({config.kind}): the {what}, of {len(users):,} users with "
                            f"{len(found.parts):,} interactions; use more data, loosen prepare.filter or change "
                            "prepare.split")
    return found


def _leave_one_out(users: Users) -> Split:
    parts = np.full(int(users.offsets[-1]), TRAIN_CODE, np.uint8)
    held = np.flatnonzero(users.lengths >= 3)
    last = users.ends[held] - 1
    parts[last], parts[last - 1] = TEST_CODE, VALIDATION_CODE
    return Split(parts, CaseRows(held, last - 1), CaseRows(held, last))


def _global_temporal(config: GlobalTemporalSplit, users: Users, times: Times, seed: int, per_second: int) -> Split:
    boundary = _boundary(config, times, int(users.offsets[-1]), per_second)
    after = np.concatenate(list(times(later_than, boundary)))
    before_M = users.lengths - users.sums(after)
    drawn = _held_out(np.flatnonzero(before_M >= 2), config.validation_users * np.count_nonzero(before_M), seed,
                      "validation users")
    parts = np.where(after, np.uint8(TEST_CODE), np.uint8(TRAIN_CODE))
    held = np.zeros(len(users), bool)
    held[drawn] = True
    parts[np.repeat(held, users.lengths) & ~after] = VALIDATION_CODE
    active = np.flatnonzero(before_M < users.lengths)
    able = active[users.lengths[active] >= 2]
    return Split(parts, CaseRows(drawn, users.starts[drawn] + before_M[drawn] - 1),
                 CaseRows(able, users.ends[able] - 1), _seconds(boundary, per_second),
                 {"test_users_without_history": len(active) - len(able)})


def _boundary(config: GlobalTemporalSplit, times: Times, num_rows: int, per_second: int) -> int:
    """The last time of the training part, in the unit of the times."""
    if config.boundary is not None:
        return math.floor(Decimal(repr(config.boundary)) * per_second)
    # The smallest time that at least this share of the interactions does not exceed; by rank, as a float holds no ns.
    return time_at_rank(times, min(num_rows - 1, max(0, math.ceil(num_rows * config.quantile - 1))))


def time_at_rank(times: Times, rank: int) -> int:
    """The time that ``rank`` others come before when all are sorted: by counting, range by smaller range."""
    spans = [found for found in times(span) if found is not None]
    low, high = min(first for first, _ in spans), max(last for _, last in spans)
    while low < high:
        width = -(-(high - low + 1) // _RANGES)
        counts = np.zeros(_RANGES, np.int64)
        for more in times(counts_in_ranges, low, high, width):
            counts += more
        place = int(np.searchsorted(np.cumsum(counts), rank, side="right"))
        rank -= int(counts[:place].sum())
        low, high = low + place * width, min(high, low + (place + 1) * width - 1)
    return low


def span(times_N: np.ndarray) -> tuple[int, int] | None:
    """First and last; None: there are none."""
    return (int(times_N.min()), int(times_N.max())) if len(times_N) else None


def counts_in_ranges(times_N: np.ndarray, low: int, high: int, width: int) -> np.ndarray:
    """int64: of the times from ``low`` to ``high``, those in each range of this width."""
    return np.bincount((times_N[(times_N >= low) & (times_N <= high)] - low) // width, minlength=_RANGES)


def later_than(times_N: np.ndarray, boundary: int) -> np.ndarray:
    """bool [N]."""
    return np.asarray(times_N > boundary)


def _seconds(time: int, per_second: int) -> int | float:
    return time // per_second if time % per_second == 0 else time / per_second


def _sessions(config: SessionsSplit, users: Users, seed: int) -> Split:
    able = np.flatnonzero(users.lengths >= 2)
    test = _held_out(able, config.test_users * len(users), seed, "test users")
    rest = np.setdiff1d(able, test, assume_unique=True)
    validation = _held_out(rest, config.validation_users * len(users), seed, "validation users")
    part_M = np.full(len(users), TRAIN_CODE, np.uint8)
    part_M[test], part_M[validation] = TEST_CODE, VALIDATION_CODE
    return Split(np.repeat(part_M, users.lengths), CaseRows(validation, users.ends[validation] - 1),
                 CaseRows(test, users.ends[test] - 1))


def _held_out(able: np.ndarray, share: float, seed: int, purpose: Purpose) -> np.ndarray:
    """About ``share`` users, at least one where there are any, drawn from those who can be cases."""
    return draw(able, max(1, round(share)), seed, purpose)
