"""What is done to each piece of the sound rows: its times are read, its users counted, its rows given to blocks.

Legend: N rows of a piece, L ids of its part, R blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from pipeline.prepare.bad_rows import BadRows, code
from pipeline.prepare.numbering import Seen
from pipeline.prepare.raw import RAW_ROW, TIME_FRACTION, UNTIMED
from pipeline.prepare.scratch import Piece, Scratch, Segment
from pipeline.prepare.time_form import TimeForm
from pipeline.store.columns import ITEM_ID, SIGNAL, TIMESTAMP, USER_ID

LATE = code("impossible_time")


@dataclass(frozen=True)
class Counted:
    """What a piece holds once its times are read."""

    late: BadRows
    """Rows after the year 2100, which are no part of the rest."""
    untimed: int
    """Rows without a time."""
    earliest: int
    """Of the times, in the form's unit."""
    users: Seen
    """By the part's numbers."""


@dataclass(frozen=True)
class Numbers:
    """What the numbers of a part's ids and rows become."""

    users_L: np.ndarray
    """int32."""
    items_L: np.ndarray
    """int32."""
    rows_before: np.unsignedinteger[Any]
    """Raw rows of the parts before, in a type that holds all of them."""
    signals: bool
    """Whether any row of any part has a signal."""


def count_piece(scratch: Scratch, piece: Piece, form: TimeForm | None) -> Counted:
    """A piece looked through; ``form`` is None where the source is timeless."""
    table, late = _timed(scratch.read([piece]), form)
    untimed, earliest = 0, int(np.iinfo(np.int64).max)
    if form is not None:
        times_N = table[TIMESTAMP].to_numpy()
        known_N = times_N[times_N != UNTIMED]
        untimed, earliest = len(times_N) - len(known_N), int(known_N.min(initial=earliest))
    return Counted(late, untimed, earliest, Seen.of(table[USER_ID].to_numpy()))


def renumber_piece(scratch: Scratch, piece: Piece, form: TimeForm | None, numbers: Numbers) -> pl.DataFrame:
    """The rows of a piece that stay, under the numbers that hold for all parts."""
    (table, _), before = _timed(scratch.read([piece]), form), numbers.rows_before
    return table.select(pl.all() if numbers.signals else pl.exclude(SIGNAL)).with_columns(
        pl.Series(USER_ID, numbers.users_L[table[USER_ID].to_numpy()]),
        pl.Series(ITEM_ID, numbers.items_L[table[ITEM_ID].to_numpy()]),
        pl.Series(RAW_ROW, table[RAW_ROW].to_numpy().astype(before.dtype, copy=False) + before))


def share_piece(scratch: Scratch, piece: Piece, form: TimeForm | None, numbers: Numbers, first_users_R: np.ndarray
                ) -> list[tuple[int, Segment]]:
    """The renumbered rows in a file, those of each block that has any by themselves.

    Args:
        first_users_R: ascending, of the blocks.
    """
    table = renumber_piece(scratch, piece, form, numbers)
    block_N = np.searchsorted(first_users_R, table[USER_ID].to_numpy(), side="right") - 1
    order = np.argsort(block_N, kind="stable")
    blocks, starts = np.unique(block_N[order], return_index=True)
    ends = np.append(starts[1:], len(order))

    def shares() -> Iterator[pl.DataFrame]:
        return (table[order[start:end]] for start, end in zip(starts, ends, strict=True))

    return list(zip(blocks.tolist(), scratch.write(shares()), strict=True))


def _timed(table: pl.DataFrame, form: TimeForm | None) -> tuple[pl.DataFrame, BadRows]:
    """The rows with their times in the form's unit, and those that lie after 2100, which are left out."""
    if form is None:
        return table, BadRows({}, {})
    times_N = table[TIMESTAMP].to_numpy()
    timed_N = times_N != UNTIMED
    fractions_N = table[TIME_FRACTION].fill_null(0).to_numpy()[timed_N] if TIME_FRACTION in table.columns else None
    known, late = form.apply(times_N[timed_N], fractions_N)
    found_N, late_N = np.full(len(times_N), UNTIMED, np.int64), np.zeros(len(times_N), bool)
    found_N[timed_N], late_N[timed_N] = known, late
    table = table.with_columns(pl.Series(TIMESTAMP, found_N)).select(pl.exclude(TIME_FRACTION))
    if not late.any():
        return table, BadRows({}, {})
    rows = table[RAW_ROW].filter(pl.Series(late_N))
    return table.filter(pl.Series(~late_N)), BadRows.of(rows, pl.repeat(LATE, len(rows), dtype=pl.UInt8, eager=True))
