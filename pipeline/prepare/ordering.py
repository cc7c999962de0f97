"""Time order within users, ties by a seeded hash of the raw row; dense indices that raw ids cannot change.

Legend: N interactions, M users.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from models.ragged import offsets_of
from pipeline.prepare.encoding import Encoded
from pipeline.prepare.hashing import hashes
from pipeline.prepare.raw import UNTIMED


def in_time(encoded: Encoded, seed: int, earlier: pl.Series | None = None) -> Encoded:
    """The interactions by user (in order of first raw row), then time, then hash of the raw row.

    Users' numbers become 0…M-1 in the order of their first raw row, after those of ``earlier``, which keep their
    places. Timeless rows keep their raw order. Neither ids nor the place in the file decide between rows of one user
    and one time, but where ``file_order`` is set: then rows of one time keep their raw order, and a row without a time
    takes that of the user's row before it, at the start that of the row after it.
    """
    found = encoded.interactions
    if found.times is not None and encoded.file_order:
        found = replace(found, times=_filled(found.users, found.times))
    users, user_ids = renumber(found.users, encoded.user_ids, earlier)
    if found.times is None:
        order = np.argsort(users, kind="stable")
    else:
        order = _by_user_and_time(users, found.times)
        if not encoded.file_order:
            _draw_ties(order, users, found.times, found.rows, seed)
    return replace(encoded, interactions=replace(found, users=users).take(order), user_ids=user_ids)


def renumber(numbers_N: np.ndarray, ids: pl.Series, earlier: pl.Series | None = None) -> tuple[np.ndarray, pl.Series]:
    """``first_seen`` numbers, and the raw ids in their order; ids that no number uses fall out.

    Ids of ``earlier`` come first, in its order.
    """
    fresh = first_seen(numbers_N)
    old = np.zeros(int(fresh.max(initial=-1)) + 1, np.int64)
    old[fresh] = numbers_N
    names = ids[old]
    if earlier is None:
        return fresh, names
    known = pl.DataFrame({"id": earlier, "place": pl.int_range(len(earlier), dtype=pl.Int64, eager=True)})
    place = pl.DataFrame({"id": names}).join(known, on="id", how="left", maintain_order="left")["place"]
    order = np.lexsort((np.arange(len(names)), place.fill_null(len(earlier)).to_numpy()))
    number = np.empty(len(order), np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)
    return number[fresh], names[order]


def first_seen(numbers_N: np.ndarray) -> np.ndarray:
    """int32 [N]: the same numbers renamed 0, 1, 2 … in order of first appearance."""
    if not len(numbers_N):
        return numbers_N.astype(np.int32)
    first = np.full(int(numbers_N.max()) + 1, -1, np.int64)
    backwards = np.arange(len(numbers_N) - 1, -1, -1)
    first[numbers_N[::-1]] = backwards  # of repeated places the last write stays: the first appearance
    present = np.flatnonzero(first >= 0)
    renamed = np.zeros(len(first), np.int32)
    renamed[present[np.argsort(first[present])]] = np.arange(len(present), dtype=np.int32)
    result: np.ndarray = renamed[numbers_N]
    return result


def tied(users_N: np.ndarray, times_N: np.ndarray) -> np.ndarray:
    """bool [N], of sorted rows: another row of the same user has the same time."""
    same_as_next = (users_N[1:] == users_N[:-1]) & (times_N[1:] == times_N[:-1])
    mask = np.zeros(len(users_N), bool)
    mask[1:] |= same_as_next
    mask[:-1] |= same_as_next
    return mask


def _filled(users_N: np.ndarray, times_N: np.ndarray) -> np.ndarray:
    """int64 [N], of rows in raw order: ``UNTIMED`` replaced by the time of the user's row before, else after it; by the
    earliest time of all where a user has none."""
    order = np.argsort(users_N, kind="stable")
    users, times = users_N[order], times_N[order]
    known = times != UNTIMED
    if known.all():
        return times_N
    places = np.arange(len(times))
    before = np.maximum.accumulate(np.where(known, places, -1))
    after = np.minimum.accumulate(np.where(known, places, len(times))[::-1])[::-1]
    filled = np.full(len(times), times[known].min())
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

    @classmethod
    def of(cls, users_N: np.ndarray) -> Users:
        """From the dense, sorted user column."""
        counts = np.bincount(users_N) if len(users_N) else np.zeros(0, np.int64)
        return cls(offsets_of(counts))

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
