"""Raw interactions as compact columns: ids are numbers from here on, bad rows are named or dropped.

Ids and counts pass through this process, rows only where it works alone.

Legend: N interactions, M users, L ids of a part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import numpy as np
import polars as pl

from configs.errors import DataError
from models.ragged import bounds
from pipeline.prepare.bad_rows import BadRows, all_bad, refuse_or_count
from pipeline.prepare.blocks import Blocks, Interactions, Place
from pipeline.prepare.ids import IdLists, merged_ids
from pipeline.prepare.numbering import Numbering
from pipeline.prepare.parts import read_parts
from pipeline.prepare.pieces import Numbers, count_piece, renumber_piece, share_piece
from pipeline.prepare.raw import RAW_ROW, UNTIMED, RawTables
from pipeline.prepare.scratch import Piece, Segment
from pipeline.prepare.time_form import TimeForm, TimeSizes, resolve_form
from pipeline.store.columns import TIMESTAMP
from pipeline.work.progress import track

T = TypeVar("T")
_BLOCKS_PER_WORKER: Final = 2
"""Where there are workers, small inputs are cut finer than ``rows_at_once``, so that all have work."""


@dataclass(frozen=True)
class Encoded:
    """Interactions with the raw ids behind their numbers."""

    blocks: Blocks
    """Users are numbered in the order of their first sound row (after those of an earlier artifact) and stand together
    from block to block; within a block rows have their raw order until ``ordering.in_time`` sorts them."""
    user_ids: pl.Series
    """String; entry i is the raw id of user number i."""
    item_ids: pl.Series
    """String; entry i is the raw id of item number i. Their order means nothing."""
    num_raw: int
    """Raw rows, bad ones included."""
    dropped: dict[str, int]
    """Reason → bad rows dropped."""
    file_order: bool = False
    """Whether rows of one user and time keep their raw order, and rows without a time (``UNTIMED``) their place."""
    untimed: int = 0
    """Rows without a time."""
    earliest: int = 0
    """Of all times, in the blocks' unit; means nothing where the source is timeless."""


def encode(raw: RawTables, bad_rows: Literal["error", "drop"], place: Place, streaming: bool = True,
           earlier: pl.Series | None = None) -> Encoded:
    """Read the interactions once, number their ids, check every row, and bring users together.

    Args:
        earlier: raw ids of users that come first, in this order.

    Raises:
        DataError: a damaged file, no rows at all, times of several units, or (``bad_rows="error"``) a bad row; the
            message names the first rows of the first kind of problem and what they hold.
    """
    read = _read(raw, place, streaming)
    if not read.num_raw:
        raise DataError(f"{raw.name}: holds no interactions; check the file and the settings of prepare.source")
    dropped = Counter(refuse_or_count(raw, read.bad, bad_rows))
    if dropped.total() == read.num_raw:
        raise all_bad(raw, read.bad, dropped)
    form = None if raw.timeless else _time_form(raw, read, place)
    users, user_place = merged_ids(read.user_ids, f"{raw.name}, users")
    items, item_place = merged_ids(read.item_ids, f"{raw.name}, items")
    numbering, late, untimed, earliest = Numbering(len(users)), list[tuple[int, BadRows]](), 0, np.iinfo(np.int64).max
    for part, _, counted in _each_piece(place, "counting", count_piece, read.parts, lambda _: (form,)):
        late.append((part.rows_before, counted.late))
        untimed, earliest = untimed + counted.untimed, min(earliest, counted.earliest)
        numbering.add(counted.users, _placed(user_place, part.users_L))
    too_late = BadRows.joined(late)
    dropped.update(refuse_or_count(raw, too_late, bad_rows))
    sound = read.num_raw - dropped.total()
    if not sound:
        raise all_bad(raw, too_late, dropped)
    if form is not None and untimed == sound:
        raise _no_times(raw)
    order = numbering.order(users, earlier)
    blocks = _by_user(read, form, lambda part: Numbers(
        order.new[_placed(user_place, part.users_L)], _placed(item_place, part.items_L),
        np.uint32(part.rows_before) if read.num_raw < 2**32 else np.uint64(part.rows_before), read.signals),
        order.counts_M, place)
    return Encoded(blocks, order.ids, items, read.num_raw, dict(dropped), raw.file_order, untimed, earliest)


@dataclass(frozen=True)
class _Part:
    """Consecutive raw rows."""

    pieces: list[Piece]
    """Those that are sound; see :class:`parts.Part`."""
    rows_before: int
    """Raw rows of the parts before."""
    users_L: np.ndarray
    """int32, places of its users among those of all parts."""
    items_L: np.ndarray
    """int32, the same of its items."""


@dataclass(frozen=True)
class _Read:
    """The raw rows of all parts."""

    parts: list[_Part]
    user_ids: pl.Series
    item_ids: pl.Series
    bad: BadRows
    num_raw: int
    signals: bool
    """Whether any row has a signal."""
    fractions: bool
    """Whether any time has a fraction of its unit."""
    times: TimeSizes


def _read(raw: RawTables, place: Place, streaming: bool) -> _Read:
    users, items = IdLists(), IdLists()
    parts, bad, times = list[_Part](), list[tuple[int, BadRows]](), list[TimeSizes]()
    num_raw, signals, fractions = 0, False, False
    for part in read_parts(raw, place, streaming):
        parts.append(_Part(part.pieces, num_raw, users.add(part.user_ids), items.add(part.item_ids)))
        bad.append((num_raw, part.bad))
        times.append(part.times)
        num_raw, signals, fractions = num_raw + part.num_raw, signals or part.signals, fractions or part.fractions
    return _Read(parts, users.all(), items.all(), BadRows.joined(bad), num_raw, signals, fractions,
                 TimeSizes.joined(times))


def _placed(place: np.ndarray | None, numbers: np.ndarray) -> np.ndarray:
    return numbers if place is None else place[numbers]


def _each_piece(place: Place, label: str, work: Callable[..., T], parts: Sequence[_Part],
                arguments: Callable[[_Part], tuple[Any, ...]]) -> Iterator[tuple[_Part, Piece, T]]:
    """What the work makes of each piece, in their order."""
    pieces = [(part, piece) for part in parts for piece in part.pieces]
    calls = ((place.scratch, piece, *more) for part in parts for more in [arguments(part)] for piece in part.pieces)
    results = track(place.workers.run(work, calls), f"prepare: {label}", "pieces", len(pieces))
    return ((*of, result) for of, result in zip(pieces, results, strict=True))


def _time_form(raw: RawTables, read: _Read, place: Place) -> TimeForm:
    """How the numbers that stand as times are read."""

    def times() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for part in read.parts:
            for piece in part.pieces:
                timed = place.scratch.read([piece]).select(RAW_ROW, TIMESTAMP).filter(pl.col(TIMESTAMP) != UNTIMED)
                yield timed[RAW_ROW].to_numpy().astype(np.int64) + part.rows_before, timed[TIMESTAMP].to_numpy()

    form = resolve_form(read.times, times, raw.time_unit, raw.name, raw.place)
    if form is None:
        raise _no_times(raw)
    return form.with_fractions() if read.fractions else form


def _no_times(raw: RawTables) -> DataError:
    return DataError(f"{raw.name}: no row has a time; set prepare.source.columns.timestamp=null: the file's order is "
                     "then each user's order")


def _by_user(read: _Read, form: TimeForm | None, numbers: Callable[[_Part], Numbers], counts_M: np.ndarray,
             place: Place) -> Blocks:
    """The rows with their users' own numbers, in one block or in blocks of consecutive users."""
    unit, rows, each = form.unit if form else "s", int(counts_M.sum()), place.rows_at_once
    if not place.workers.number and rows <= each:
        tables = []
        for part in read.parts:
            own = numbers(part)
            while part.pieces:
                tables.append(renumber_piece(place.scratch, part.pieces.pop(0), form, own))
        return Blocks(Interactions.of(pl.concat(tables), unit), unit, place)
    if place.workers.number:
        each = max(1, min(each, -(-rows // (place.workers.number * _BLOCKS_PER_WORKER))))
    first_users = bounds(counts_M, each)
    files: list[list[Segment]] = [[] for _ in first_users]
    for _, piece, shares in _each_piece(place, "bringing users together", share_piece, read.parts, lambda part: (
            form, place.workers.share(numbers(part)), first_users)):
        for block, segment in shares:
            files[block].append(segment)
        place.scratch.delete([piece])
    return Blocks(None, unit, place, tuple(map(tuple, files)))
