"""Rows that cannot be used: found by kind, counted, and shown with what they hold and what is legal there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import polars as pl

from configs.errors import DataError
from pipeline.prepare.raw import RAW_ROW, UNTIMED, RawTables
from pipeline.prepare.times import LEGAL_TIMES
from pipeline.store.columns import ITEM_ID, SIGNAL, TIMESTAMP, USER_ID
from pipeline.work.text import shorten

_SHOWN_ROWS: Final = 5


@dataclass(frozen=True)
class Problem:
    """One way in which a row is bad."""

    words: str
    column: str
    legal: str


@dataclass(frozen=True)
class BadRows:
    """Raw rows that cannot be used: how many, and which come first."""

    counts: dict[int, int]
    """Number of ``code`` → rows with that problem."""
    first: dict[int, list[int]]
    """And a few of them, ascending."""

    @classmethod
    def of(cls, rows: pl.Series, problems: pl.Series) -> BadRows:
        """Rows, ascending, with the number of a problem each."""
        rows_of = {int(problem): rows.filter(problems == problem) for problem in problems.unique()}
        return cls({problem: len(found) for problem, found in rows_of.items()},
                   {problem: found.head(_SHOWN_ROWS).to_list() for problem, found in rows_of.items()})

    @classmethod
    def joined(cls, found: Iterable[tuple[int, BadRows]]) -> BadRows:
        """Those of consecutive parts of the raw data, each with the number of rows before the part."""
        counts, first = Counter[int](), dict[int, list[int]]()
        for rows_before, bad in found:
            counts.update(bad.counts)
            for problem, rows in bad.first.items():
                shown = first.setdefault(problem, [])
                shown += [rows_before + row for row in rows[:_SHOWN_ROWS - len(shown)]]
        return cls(dict(counts), first)


_ID: Final = "legal: any text or whole number but an empty one and prepare.source.missing_words"
PROBLEMS: Final[dict[str, Problem]] = {
    "user_without_items": Problem("a user without items", ITEM_ID, _ID),
    "no_user_id": Problem("a missing user id", USER_ID, _ID),
    "no_item_id": Problem("a missing item id", ITEM_ID, _ID),
    "no_time": Problem("a missing or unreadable time", TIMESTAMP, f"legal: {LEGAL_TIMES}"),
    "negative_time": Problem("a negative time", TIMESTAMP, "legal: times from 1970-01-01 on"),
    "impossible_time": Problem("a time after the year 2100", TIMESTAMP,
                                f"legal: {LEGAL_TIMES}; prepare.source.timestamp_unit says which"),
    "bad_signal": Problem("a signal that is not a finite number", SIGNAL, "legal: numbers such as 4, 4.5 or 4,5"),
}
"""Reason in ``stats.json`` → what messages say, in the order of checking."""
_PASSED_OVER: Final = ("user_without_items",)
"""Never an error: dropped and counted."""
_SHOWN_WIDTH = 60


def problems(raw: RawTables) -> pl.Expr:
    """0 for a sound row, else 1 + the place of its first problem among ``PROBLEMS``."""
    checks = {"user_without_items": pl.col(ITEM_ID).is_null()} if raw.empty_users else {}
    checks |= {"no_user_id": is_missing(USER_ID, raw), "no_item_id": is_missing(ITEM_ID, raw)}
    if not raw.timeless:
        checks |= {"no_time": pl.col(TIMESTAMP).is_null(),
                   "negative_time": (pl.col(TIMESTAMP) < 0) & (pl.col(TIMESTAMP) != UNTIMED)}
    checks["bad_signal"] = ~pl.col(SIGNAL).is_finite()
    found = pl.lit(0, pl.UInt8)
    for reason in reversed(checks):
        found = pl.when(checks[reason].fill_null(False)).then(pl.lit(code(reason), pl.UInt8)).otherwise(found)
    return found


def is_missing(column: str, raw: RawTables) -> pl.Expr:
    """Whether a cell of ids holds none: null, empty, or a word for a missing value."""
    return pl.col(column).is_null() | pl.col(column).is_in(["", *raw.missing_words])


def code(reason: str) -> int:
    """The number of a problem; 0 is none."""
    return 1 + list(PROBLEMS).index(reason)


def refuse_or_count(raw: RawTables, bad: BadRows, policy: str) -> dict[str, int]:
    """Reason → number of bad rows; raises where there are any and the policy is ``error``."""
    found = {reason: bad.counts[code(reason)] for reason in PROBLEMS if code(reason) in bad.counts}
    refused = {reason: count for reason, count in found.items() if reason not in _PASSED_OVER}
    if refused and policy == "error":
        reason = next(iter(refused))
        others = {k: v for k, v in refused.items() if k != reason}
        raise DataError(f"{raw.name}: {_told(refused[reason], reason)}: {_shown(raw, bad, reason)}"
                        f"{f'; further: {_list(others)}' if others else ''}; {PROBLEMS[reason].legal}; "
                        "mend the file, or set prepare.filter.bad_rows=drop to drop and count them")
    return found


def all_bad(raw: RawTables, bad: BadRows, dropped: dict[str, int]) -> DataError:
    """What to raise where no row is left."""
    reason = next(reason for reason in dropped if code(reason) in bad.counts)
    return DataError(f"{raw.name}: every one of its {sum(dropped.values()):,} rows is bad ({_list(dropped)}), such as "
                     f"{_shown(raw, bad, reason)}; {PROBLEMS[reason].legal}; check the columns named in "
                     "prepare.source")


def _shown(raw: RawTables, bad: BadRows, reason: str) -> str:
    """The first rows with a problem and what the file holds there."""
    first = bad.first[code(reason)]
    values = _values(raw, first, PROBLEMS[reason].column)
    return ", ".join(f"{raw.place(row)}{values.get(row, '')}" for row in first) + (
        " …" if bad.counts[code(reason)] > _SHOWN_ROWS else "")


def _values(raw: RawTables, rows: list[int], column: str) -> dict[int, str]:
    """Row → what stands there, in brackets; reads the file again."""
    if raw.written is None or column not in raw.written.collect_schema():
        return {}
    found = raw.written.filter(pl.col(RAW_ROW).is_in(rows)).select(RAW_ROW, column).collect(engine="streaming")
    return {row: " (empty)" if value is None else f" ({shorten(value, _SHOWN_WIDTH)!r})" for row, value in found.rows()}


def _told(count: int, reason: str) -> str:
    return f"{count:,} row{'s' if count > 1 else ''} with {PROBLEMS[reason].words}"


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} with {PROBLEMS[reason].words}" for reason, count in counts.items())
