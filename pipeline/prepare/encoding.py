"""Raw interactions as compact arrays: ids are numbers from here on, bad rows are named or dropped.

Legend: N interactions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import polars as pl

from configs.errors import DataError
from pipeline.prepare.raw import RAW_ROW, UNTIMED, RawTables, TimeUnit
from pipeline.prepare.tables import readable, scanned_files
from pipeline.prepare.times import LATEST_S, PER_SECOND, resolve_unit
from pipeline.store.columns import ITEM_ID, REVIEW, SIGNAL, TIMESTAMP, USER_ID

_PROBLEM: Final = "problem"
_PROBLEMS: Final[dict[str, str]] = {
    "no_user_id": "a missing user id",
    "no_item_id": "a missing item id",
    "no_time": "a missing or unreadable time",
    "negative_time": "a negative time",
    "impossible_time": "a time after the year 2100",
    "bad_signal": "a signal that is not a finite number",
}
"""Reason in ``stats.json`` → words of the message, in the order of checking."""
_SHOWN_ROWS = 5


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
            message names the first rows of the first kind of problem.
    """
    frame = raw.interactions.with_columns(_problems(raw).alias(_PROBLEM)).with_columns(
        pl.col(USER_ID).cast(pl.Categorical(pl.Categories.random())),
        pl.col(ITEM_ID).cast(pl.Categorical(pl.Categories.random())))
    with readable(scanned_files(raw.keep)):
        table = frame.collect(engine="streaming" if streaming else "in-memory")
    if not table.height:
        raise DataError(f"{raw.name}: holds no interactions; check the file and the settings of prepare.source")
    rows = _array(table.drop_in_place(RAW_ROW))
    problems = _array(table.drop_in_place(_PROBLEM))
    dropped = _refuse_or_count(raw, rows, problems, bad_rows)
    users, user_ids = _numbers(table.drop_in_place(USER_ID))
    items, item_ids = _numbers(table.drop_in_place(ITEM_ID))
    times = None if raw.timeless else _array(table.drop_in_place(TIMESTAMP).fill_null(0))
    signals = table.drop_in_place(SIGNAL)
    found = Interactions(
        users, items, times, None if signals.null_count() == len(signals) else _array(signals.fill_null(float("nan"))),
        rows, table[REVIEW] if REVIEW in table.columns else None).take(problems == 0)
    if len(found):
        found, late = _in_known_unit(raw, found)
        dropped |= _refuse_or_count(raw, found.rows, late.astype(np.uint8) * _code("impossible_time"), bad_rows)
        found = found.take(~late)
    if not len(found):
        raise DataError(f"{raw.name}: every one of its {len(rows):,} rows is bad ({_list(dropped)}); check the columns "
                        "named in prepare.source")
    untimed = 0 if found.times is None else int(np.count_nonzero(found.times == UNTIMED))
    return Encoded(found, user_ids, item_ids, len(rows), dropped, raw.file_order, untimed)


def _problems(raw: RawTables) -> pl.Expr:
    """0 for a sound row, else 1 + the place of its first problem among ``_PROBLEMS``."""
    checks: dict[str, pl.Expr] = {
        "no_user_id": pl.col(USER_ID).is_null() | (pl.col(USER_ID) == ""),
        "no_item_id": pl.col(ITEM_ID).is_null() | (pl.col(ITEM_ID) == ""),
    }
    if not raw.timeless:
        checks |= {"no_time": pl.col(TIMESTAMP).is_null(),
                   "negative_time": (pl.col(TIMESTAMP) < 0) & (pl.col(TIMESTAMP) != UNTIMED)}
    checks["bad_signal"] = ~pl.col(SIGNAL).is_finite()
    found = pl.lit(0, pl.UInt8)
    for reason in reversed(checks):
        found = pl.when(checks[reason].fill_null(False)).then(pl.lit(_code(reason), pl.UInt8)).otherwise(found)
    return found


def _code(reason: str) -> int:
    return 1 + list(_PROBLEMS).index(reason)


def _refuse_or_count(raw: RawTables, rows: np.ndarray, problems: np.ndarray, policy: str) -> dict[str, int]:
    counts = np.bincount(problems, minlength=len(_PROBLEMS) + 1)[1:]
    found = {reason: int(count) for reason, count in zip(_PROBLEMS, counts, strict=True) if count}
    if found and policy == "error":
        reason = next(iter(found))
        bad = rows[problems == _code(reason)]
        shown = ", ".join(raw.place(int(row)) for row in bad[:_SHOWN_ROWS])
        others = {k: v for k, v in found.items() if k != reason}
        raise DataError(f"{raw.name}: {len(bad):,} rows with {_PROBLEMS[reason]}: {shown}"
                        f"{' …' if len(bad) > _SHOWN_ROWS else ''}{f'; further: {_list(others)}' if others else ''}; "
                        "mend the file, or set prepare.filter.bad_rows=drop to drop and count them")
    return found


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} with {_PROBLEMS[reason]}" for reason, count in counts.items())


def _in_known_unit(raw: RawTables, found: Interactions) -> tuple[Interactions, np.ndarray]:
    """The interactions with their unit resolved, and a mask of those after 2100."""
    if found.times is None:
        return found, np.zeros(len(found), bool)
    timed = found if not raw.file_order else found.take(found.times != UNTIMED)
    if timed.times is None or not len(timed):
        raise DataError(f"{raw.name}: no row has a time; set prepare.source.columns.timestamp=null: the file's order "
                        "is then each user's order")
    unit = resolve_unit(timed.times, raw.time_unit, raw.name, lambda i: raw.place(int(timed.rows[i])))
    return replace(found, unit=unit), found.times >= LATEST_S * PER_SECOND[unit]


def _numbers(ids: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """Numbers of categorical ids, int32 (null: 0, dropped as a bad row), and the ids behind the numbers."""
    names = ids.unique().drop_nulls()
    table = pl.DataFrame({"number": names.to_physical(), "id": names.cast(pl.String)}).sort("number")
    size = int(table["number"].to_numpy().max(initial=0)) + 1
    dense = pl.DataFrame({"number": pl.int_range(size, dtype=pl.UInt32, eager=True)})
    return (_array(ids.to_physical().fill_null(0)).astype(np.int32),
            dense.join(table, on="number", how="left", maintain_order="left")["id"])


def _array(column: pl.Series) -> np.ndarray:
    return column.rechunk().to_numpy()
