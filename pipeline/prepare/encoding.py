"""Raw interactions as compact columns: ids are numbers from here on, bad rows are named or dropped.

Legend: N interactions of a piece of the raw data or of a block, M users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import polars as pl

from configs.errors import DataError
from pipeline.prepare.bad_rows import BadRows, all_bad, code, is_missing, problems, refuse_or_count
from pipeline.prepare.blocks import Blocks, Interactions, Spill
from pipeline.prepare.ids import merged_ids
from pipeline.prepare.numbering import Numbering
from pipeline.prepare.raw import RAW_ROW, TIME_FRACTION, UNTIMED, RawTables
from pipeline.prepare.tables import readable, scanned_files
from pipeline.prepare.times import TimeForm, resolve_form
from pipeline.store.columns import ITEM_ID, SIGNAL, TIMESTAMP, USER_ID

_PROBLEM: Final = "problem"


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


@dataclass(frozen=True)
class Place:
    """Where interactions are while they are prepared."""

    folder: Path
    """For what does not fit into memory; files in it may be left behind."""
    rows_at_once: int
    """Most rows of a block (a user with more is a block of their own); about two blocks are in memory."""
    setting: str = "storage.uri"
    """What a person sets to have ``folder`` elsewhere."""


def encode(raw: RawTables, bad_rows: Literal["error", "drop"], place: Place, streaming: bool = True,
           earlier: pl.Series | None = None) -> Encoded:
    """Read the interactions once, number their ids, check every row, and bring users together.

    Ids become 4-byte numbers while the file streams by: a row takes about 25 bytes, a review its own more.

    Args:
        earlier: raw ids of users that come first, in this order.

    Raises:
        DataError: a damaged file, no rows at all, times of several units, or (``bad_rows="error"``) a bad row; the
            message names the first rows of the first kind of problem and what they hold.
    """
    read = _read(raw, place, streaming)
    dropped = refuse_or_count(raw, read.bad.rows, read.bad.problems, bad_rows)
    if not read.pieces.rows:
        raise all_bad(raw, read.bad.rows, read.bad.problems, dropped)
    timed = None if raw.timeless else _time_form(raw, read)
    users, user_place = merged_ids(read.user_ids, f"{raw.name}, users")
    items, item_place = merged_ids(read.item_ids, f"{raw.name}, items")
    sound = Spill(place.folder / "sound", place.rows_at_once, place.setting)
    late, numbering = BadRows(), Numbering(len(users))
    untimed, earliest = 0, np.iinfo(np.int64).max
    for piece in read.pieces.pop():
        if timed is not None:
            piece, too_late = _with_times(piece, timed)
            late.add(piece[RAW_ROW].filter(too_late), code("impossible_time"))
            piece = piece.filter(~too_late)
            times_N = piece[TIMESTAMP].to_numpy()
            known_N = times_N[times_N != UNTIMED]
            untimed += len(times_N) - len(known_N)
            earliest = int(known_N.min(initial=earliest))
        piece = piece.with_columns(_replaced(piece[USER_ID], user_place), _replaced(piece[ITEM_ID], item_place))
        if not read.signals:
            piece = piece.drop(SIGNAL)
        numbering.add(piece[USER_ID].to_numpy())
        sound.append(piece)
    for reason, count in refuse_or_count(raw, late.rows, late.problems, bad_rows).items():
        dropped[reason] = dropped.get(reason, 0) + count
    if not sound.rows:
        raise all_bad(raw, late.rows, late.problems, dropped)
    if timed is not None and untimed == sound.rows:
        raise _no_times(raw)
    order = numbering.order(users, earlier)
    unit = timed.unit if timed else "s"
    blocks = _by_user(sound, order.new, order.counts_M, unit, place)
    return Encoded(blocks, order.ids, items, read.num_raw, dropped, raw.file_order, untimed, earliest)


@dataclass(frozen=True)
class _Read:
    """The raw rows as they stream by."""

    pieces: Spill
    """Sound rows: RAW_ROW, USER_ID and ITEM_ID as numbers of the id lists, TIMESTAMP, and what else there is."""
    bad: BadRows
    user_ids: pl.Series
    item_ids: pl.Series
    num_raw: int
    signals: bool
    """Whether any row has a signal."""
    fractions: bool
    """Whether any time has a fraction of its unit."""


def _read(raw: RawTables, place: Place, streaming: bool) -> _Read:
    kinds = {name: pl.Categorical(pl.Categories.random()) for name in (USER_ID, ITEM_ID)}
    frame = raw.interactions.with_columns(problems(raw).alias(_PROBLEM)).with_columns(
        pl.when(~is_missing(name, raw)).then(pl.col(name)).cast(kind).alias(name) for name, kind in kinds.items())
    pieces, bad = Spill(place.folder / "read", place.rows_at_once, place.setting), BadRows()
    num_raw, signals, fractions = 0, False, False
    anchor = pl.DataFrame([pl.Series(name, [], dtype=kind) for name, kind in kinds.items()])
    for batch in _batches(raw, frame, streaming):
        num_raw += batch.height
        signals |= batch[SIGNAL].null_count() < batch.height
        found = batch.drop_in_place(_PROBLEM)
        is_bad = found != 0
        if is_bad.any():
            bad.add(batch[RAW_ROW].filter(is_bad), found.filter(is_bad))
            batch = batch.filter(~is_bad)
        if TIME_FRACTION in batch.columns:
            fractions |= bool((batch[TIME_FRACTION] > 0).any())
        if raw.timeless:
            batch = batch.drop(TIMESTAMP)
        pieces.append(batch.with_columns(
            pl.col(name).to_physical().cast(pl.Int32) for name in kinds).with_columns(
            pl.col(SIGNAL).fill_null(float("nan"))))
    ids = {name: kind.categories.to_series() for name, kind in kinds.items()}
    del anchor  # categories live as long as a column that has them
    if not num_raw:
        raise DataError(f"{raw.name}: holds no interactions; check the file and the settings of prepare.source")
    return _Read(pieces, bad, ids[USER_ID], ids[ITEM_ID], num_raw, signals, fractions)


def _batches(raw: RawTables, frame: pl.LazyFrame, streaming: bool) -> Iterator[pl.DataFrame]:
    """The rows as they are read; what cannot be read is a DataError, what the caller meets between them is not."""
    with readable(scanned_files(raw.keep)):
        batches = frame.collect_batches(engine="streaming" if streaming else "in-memory", lazy=True)
    while True:
        with readable(scanned_files(raw.keep)):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _time_form(raw: RawTables, read: _Read) -> TimeForm:
    """How the numbers that stand as times are read."""

    def times() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for piece in read.pieces:
            timed = piece.select(RAW_ROW, TIMESTAMP).filter(pl.col(TIMESTAMP) != UNTIMED)
            yield timed[RAW_ROW].to_numpy(), timed[TIMESTAMP].to_numpy()

    form = resolve_form(times, raw.time_unit, raw.name, raw.place)
    if form is None:
        raise _no_times(raw)
    return form.with_fractions() if read.fractions else form


def _no_times(raw: RawTables) -> DataError:
    return DataError(f"{raw.name}: no row has a time; set prepare.source.columns.timestamp=null: the file's order is "
                     "then each user's order")


def _with_times(piece: pl.DataFrame, form: TimeForm) -> tuple[pl.DataFrame, pl.Series]:
    """A piece with its times in the form's unit, and which of its rows lie after 2100."""
    times_N = piece[TIMESTAMP].to_numpy()
    timed = times_N != UNTIMED
    fractions_N = piece[TIME_FRACTION].fill_null(0).to_numpy()[timed] if TIME_FRACTION in piece.columns else None
    known, late_N = form.apply(times_N[timed], fractions_N)
    found, late = np.full(len(times_N), UNTIMED, np.int64), np.zeros(len(times_N), bool)
    found[timed], late[timed] = known, late_N
    return (piece.with_columns(pl.Series(TIMESTAMP, found)).select(pl.exclude(TIME_FRACTION)),
            pl.Series(late))


def _replaced(numbers: pl.Series, place: np.ndarray | None) -> pl.Series:
    return numbers if place is None else pl.Series(numbers.name, place[numbers.to_numpy()])


def _by_user(sound: Spill, number_M: np.ndarray, counts_M: np.ndarray, unit: Any, place: Place) -> Blocks:
    """The rows with their users' own numbers, in one block or in blocks of consecutive users."""
    def renumbered() -> Iterator[pl.DataFrame]:
        for piece in sound.pop():
            yield piece.with_columns(pl.Series(USER_ID, number_M[piece[USER_ID].to_numpy()]))

    if sound.rows <= place.rows_at_once:
        return Blocks(Interactions.of(pl.concat(list(renumbered())), unit), unit)
    first_users = _bounds(counts_M, place.rows_at_once)
    shares = [Spill(place.folder / f"share-{number}", place.rows_at_once, place.setting)
              for number in range(len(first_users))]
    held = 0
    for piece in renumbered():
        of_N = np.searchsorted(first_users, piece[USER_ID].to_numpy(), side="right") - 1
        for number in np.unique(of_N):
            shares[number].append(piece.filter(pl.Series(of_N == number)))
        held += piece.height
        if held > place.rows_at_once:
            for share in shares:
                share.flush()
            held = 0
    return Blocks.written((Interactions.of(pl.concat(list(share.pop())), unit) for share in shares), len(shares), unit,
                          place.folder, place.setting, "bringing users together")


def _bounds(counts_M: np.ndarray, most: int) -> np.ndarray:
    """First users of blocks of at most ``most`` rows; a user with more is a block of their own."""
    ends = np.cumsum(counts_M)
    first, before, found = 0, 0, []
    while first < len(counts_M):
        found.append(first)
        first = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        before = int(ends[first - 1])
    return np.array(found, np.int64)
