"""Raw interactions as compact arrays: ids are numbers from here on, bad rows are named or dropped.

Legend: N interactions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import polars as pl

from configs.errors import DataError
from pipeline.prepare.bad_rows import all_bad, code, is_missing, problems, refuse_or_count
from pipeline.prepare.ids import whole_ids
from pipeline.prepare.raw import RAW_ROW, TIME_FRACTION, UNTIMED, RawTables, TimeUnit
from pipeline.prepare.tables import readable, scanned_files
from pipeline.prepare.times import LATEST_S, PER_SECOND, resolve_unit
from pipeline.store.columns import ITEM_ID, REVIEW, SIGNAL, TIMESTAMP, USER_ID

_PROBLEM: Final = "problem"


@dataclass(frozen=True)
class Interactions:
    """N interactions in columns, in raw row order until ``ordering.in_time`` sorts them."""

    users: np.ndarray
    """int32 [N], an arbitrary number per raw user."""
    items: np.ndarray
    """int32 [N], an arbitrary number per raw item."""
    times: np.ndarray | None
    """int64 [N] in ``unit``; None: timeless."""
    signals: np.ndarray | None
    """float32 [N], NaN where there is none; None: the source has no signals."""
    rows: np.ndarray
    """Raw row numbers, ascending."""
    reviews: pl.Series | None = None
    """String [N]."""
    unit: TimeUnit = "s"

    def __len__(self) -> int:
        return len(self.users)

    def take(self, chosen: np.ndarray) -> Interactions:
        """The interactions of a boolean mask or of an index array."""
        if chosen.dtype == bool and chosen.all():
            return self
        index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Interactions(
            self.users[index], self.items[index], None if self.times is None else self.times[index],
            None if self.signals is None else self.signals[index], self.rows[index],
            None if self.reviews is None else self.reviews[index], self.unit)

    @property
    def seconds(self) -> np.ndarray | None:
        """Unix seconds, int64 [N]; fractions are cut off."""
        return self.times if self.times is None or self.unit == "s" else self.times // PER_SECOND[self.unit]


@dataclass(frozen=True)
class Encoded:
    """Interactions with the raw ids behind their numbers."""

    interactions: Interactions
    user_ids: pl.Series
    """String; entry i is the raw id of user number i."""
    item_ids: pl.Series
    num_raw: int
    """Raw rows, bad ones included."""
    dropped: dict[str, int]
    """Reason → bad rows dropped."""
    file_order: bool = False
    """Whether rows of one user and time keep their raw order, and rows without a time (``UNTIMED``) their place."""
    untimed: int = 0
    """Rows without a time."""


def encode(raw: RawTables, bad_rows: Literal["error", "drop"], streaming: bool = True) -> Encoded:
    """Read the interactions, number their ids, and check every row.

    Ids become 4-byte numbers while the file streams by, so that 20 M rows take about half a gigabyte.

    Raises:
        DataError: a damaged file, no rows at all, times of several units, or (``bad_rows="error"``) a bad row; the
            message names the first rows of the first kind of problem and what they hold.
    """
    frame = raw.interactions.with_columns(problems(raw).alias(_PROBLEM)).with_columns(
        pl.when(~is_missing(name, raw)).then(pl.col(name)).cast(pl.Categorical(pl.Categories.random())).alias(name)
        for name in (USER_ID, ITEM_ID))
    with readable(scanned_files(raw.keep)):
        table = frame.collect(engine="streaming" if streaming else "in-memory")
    if not table.height:
        raise DataError(f"{raw.name}: holds no interactions; check the file and the settings of prepare.source")
    rows = _array(table.drop_in_place(RAW_ROW))
    found_problems = _array(table.drop_in_place(_PROBLEM))
    dropped = refuse_or_count(raw, rows, found_problems, bad_rows)
    sound = found_problems == 0
    if not sound.any():
        raise all_bad(raw, rows, found_problems, dropped)
    users, user_ids = _numbers(table.drop_in_place(USER_ID), f"{raw.name}, users")
    items, item_ids = _numbers(table.drop_in_place(ITEM_ID), f"{raw.name}, items")
    times = None if raw.timeless else _array(table.drop_in_place(TIMESTAMP).fill_null(0))
    fractions = _array(table.drop_in_place(TIME_FRACTION).fill_null(0)) if TIME_FRACTION in table.columns else None
    signals = table.drop_in_place(SIGNAL)
    found = Interactions(
        users, items, times, None if signals.null_count() == len(signals) else _array(signals.fill_null(float("nan"))),
        rows, table[REVIEW] if REVIEW in table.columns else None).take(sound)
    if found.times is not None:
        found, late = _in_known_unit(raw, found, None if fractions is None else fractions[sound])
        too_late = late.astype(np.uint8) * code("impossible_time")
        dropped |= refuse_or_count(raw, found.rows, too_late, bad_rows)
        if late.all():
            raise all_bad(raw, found.rows, too_late, dropped)
        found = found.take(~late)
    untimed = 0 if found.times is None else int(np.count_nonzero(found.times == UNTIMED))
    return Encoded(found, user_ids, item_ids, len(rows), dropped, raw.file_order, untimed)


def _in_known_unit(raw: RawTables, found: Interactions,
                   fractions_N: np.ndarray | None) -> tuple[Interactions, np.ndarray]:
    """The interactions with their unit resolved, and a mask of those after 2100.

    Seconds and milliseconds with fractions become microseconds, the smallest unit that is kept.
    """
    assert found.times is not None
    timed = np.flatnonzero(found.times != UNTIMED)
    if not len(timed):
        raise DataError(f"{raw.name}: no row has a time; set prepare.source.columns.timestamp=null: the file's order "
                        "is then each user's order")
    rows = found.rows[timed]
    known, unit = resolve_unit(found.times[timed], raw.time_unit, raw.name, lambda i: raw.place(int(rows[i])))
    late = np.zeros(len(found), bool)
    late[timed] = known >= LATEST_S * PER_SECOND[unit]
    if fractions_N is not None and fractions_N.any() and unit in ("s", "ms"):
        scale = PER_SECOND["us"] // PER_SECOND[unit]
        micros = np.rint(fractions_N[timed].astype(np.float64) * scale).astype(np.int64)
        known, unit = np.where(late[timed], 0, known) * scale + micros, "us"
    times = np.full(len(found), UNTIMED, np.int64)
    times[timed] = known
    return replace(found, times=times, unit=unit), late


def _numbers(ids: pl.Series, what: str) -> tuple[np.ndarray, pl.Series]:
    """Numbers of categorical ids, int32 (null: 0, dropped as a bad row), and the ids behind the numbers."""
    names = ids.unique().drop_nulls()
    table = pl.DataFrame({"number": names.to_physical(), "id": names.cast(pl.String)}).sort("number")
    size = int(table["number"].to_numpy().max(initial=0)) + 1
    dense = pl.DataFrame({"number": pl.int_range(size, dtype=pl.UInt32, eager=True)})
    numbers = _array(ids.to_physical().fill_null(0)).astype(np.int32)
    found = dense.join(table, on="number", how="left", maintain_order="left")["id"]
    whole = whole_ids(found, what)
    if whole is found:
        return numbers, found
    merged = whole.unique(maintain_order=True)
    place = pl.DataFrame({"id": whole}).join(
        pl.DataFrame({"id": merged, "place": pl.int_range(len(merged), dtype=pl.Int32, eager=True)}), on="id",
        how="left", maintain_order="left", nulls_equal=True)["place"]
    return _array(place)[numbers], merged


def _array(column: pl.Series) -> np.ndarray:
    return column.rechunk().to_numpy()
