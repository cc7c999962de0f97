"""Time order within users, ties by a seeded hash of the raw row.

Legend: N interactions of a block, M users.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipeline.prepare.blocks import Interactions
from pipeline.prepare.encoding import Encoded
from pipeline.prepare.hashing import hashes
from pipeline.prepare.raw import UNTIMED

_USERS_AT_ONCE = 100_000
"""numpy sums a mask by way of eight bytes for each of its rows."""


def in_time(encoded: Encoded, seed: int) -> Encoded:
    """The interactions by user, then time, then hash of the raw row.

    Timeless rows keep their raw order. Neither ids nor the place in the file decide between rows of one user and one
    time, but where ``file_order`` is set: then rows of one time keep their raw order, and a row without a time takes
    that of the user's row before it, at the start that of the row after it.
    """
    blocks, _ = encoded.blocks.map(ordered, "ordering", encoded.file_order, encoded.earliest, seed)
    return replace(encoded, blocks=blocks)


def ordered(found: Interactions, file_order: bool, earliest: int, seed: int) -> tuple[Interactions, None]:
    """A block in raw row order as :func:`in_time` has it.

    Args:
        earliest: of all times.
    """
    if found.times is None:
        return found.take(np.argsort(found.users, kind="stable")), None
    if file_order:
        found = replace(found, times=_filled(found.users, found.times, earliest))
    assert found.times is not None
    order = _by_user_and_time(found.users, found.times)
    if not file_order:
        _draw_ties(order, found.users, found.times, found.rows, seed)
    return found.take(order), None


def tied_rows(found: Interactions) -> np.ndarray:
    """bool [N]: which rows of a sorted block with times share theirs with another of their user."""
    assert found.times is not None
    return tied(found.users, found.times)


def tied(users_N: np.ndarray, times_N: np.ndarray) -> np.ndarray:
    """bool [N], of sorted rows: another row of the same user has the same time."""
    same_as_next = (users_N[1:] == users_N[:-1]) & (times_N[1:] == times_N[:-1])
    mask = np.zeros(len(users_N), bool)
    mask[1:] |= same_as_next
    mask[:-1] |= same_as_next
    return mask


def _filled(users_N: np.ndarray, times_N: np.ndarray, earliest: int) -> np.ndarray:
    """int64 [N], of rows in raw order: ``UNTIMED`` replaced by the time of the user's row before, else after it; by
    ``earliest`` where a user has none."""
    order = np.argsort(users_N, kind="stable")
    users, times = users_N[order], times_N[order]
    known = times != UNTIMED
    if known.all():
        return times_N
    places = np.arange(len(times))
    before = np.maximum.accumulate(np.where(known, places, -1))
    after = np.minimum.accumulate(np.where(known, places, len(times))[::-1])[::-1]
    filled = np.full(len(times), earliest)
    for place in (after, before):
        inside = (place >= 0) & (place < len(times))
        inside[inside] = users[place[inside]] == users[inside]
        filled[inside] = times[place[inside]]
    result = np.empty_like(times_N)
    result[order] = filled
    return result


def _by_user_and_time(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """int64 [N]: the stable sorting permutation."""
    earliest = int(times.min())
    span = int(times.max()) - earliest + 1
    if (int(users.max()) + 1) * span < 2**63:  # one integer holds both: several times faster than two sorts
        return np.argsort(users * np.int64(span) + (times - earliest), kind="stable")
    return np.lexsort((times, users))


def _draw_ties(order: np.ndarray, users: np.ndarray, times: np.ndarray, rows: np.ndarray, seed: int) -> None:
    """Order rows of one user and time by a seeded hash of the raw row, in place of the permutation."""
    ties = np.flatnonzero(tied(users[order], times[order]))
    if len(ties):
        rows_of_ties = order[ties]
        group_ends = (users[rows_of_ties[1:]] != users[rows_of_ties[:-1]]) | (
            times[rows_of_ties[1:]] != times[rows_of_ties[:-1]])
        group = np.concatenate([[0], np.cumsum(group_ends)])
        order[ties] = rows_of_ties[np.lexsort((hashes(rows[rows_of_ties], seed, "ties"), group))]


@dataclass(frozen=True)
class Users:
    """Where each user's rows stand among sorted rows."""

    offsets: np.ndarray
    """int64 [M + 1]; user u has rows offsets[u]…offsets[u + 1] - 1."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def starts(self) -> np.ndarray:
        return self.offsets[:-1]

    @property
    def ends(self) -> np.ndarray:
        return self.offsets[1:]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def sums(self, mask_N: np.ndarray) -> np.ndarray:
        """int64 [M]: how many of each user's rows, one at least, are in a mask of all rows."""
        sums_M = np.zeros(len(self), np.int64)
        for first in range(0, len(self), _USERS_AT_ONCE):
            starts = self.offsets[first:first + _USERS_AT_ONCE + 1]
            rows = mask_N[starts[0]:starts[-1]]
            sums_M[first:first + len(starts) - 1] = np.add.reduceat(rows, starts[:-1] - starts[0], dtype=np.int64)
        return sums_M
