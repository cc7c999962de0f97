"""What `tests/bench/cases.py` holds each case to: its exit code, what is printed, and values of the prepared data."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

Values = Callable[[pl.DataFrame, pl.DataFrame], bool]
"""Items with item_id, title, category; interactions with user_id, item_id, timestamp, in the artifact's order."""
_ALL = r"60 rows = 60 kept \+ 0 dropped"


@dataclass(frozen=True)
class Check:
    """All must hold; beside it, no traceback of ours, and rows that add up."""

    code: int
    printed: tuple[str, ...] = ()
    """Patterns, each found in what the case printed or in its counts of rows."""
    not_printed: tuple[str, ...] = ()
    values: Values | None = None

    def misses(self, code: int, printed: str, out: Path) -> list[str]:
        """What does not hold, in words."""
        found = [] if code == self.code else [f"exit {code}, not {self.code}"]
        found += [f"not printed: {each}" for each in self.printed if not re.search(each, printed, re.MULTILINE)]
        found += [f"printed: {each}" for each in self.not_printed if re.search(each, printed, re.MULTILINE)]
        if self.values is not None and not found and not self.values(*_prepared(out)):
            found.append("other values than expected")
        return found


def _prepared(out: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    (folder,) = {path.parent for path in out.rglob("artifacts/prepare/**/items.parquet")}
    items = pl.read_parquet(folder / "items.parquet")
    users = pl.read_parquet(folder / "users.parquet", columns=["user_idx", "user_id"])
    interactions = pl.read_parquet(folder / "interactions.parquet").join(
        items.select("item_idx", "item_id"), "item_idx", maintain_order="left").join(
        users, "user_idx", maintain_order="left")
    return items, interactions


def _titles(*expected: str) -> Values:
    """The first items' titles, by item id."""
    return lambda items, _: items.sort("item_id")["title"].to_list()[: len(expected)] == list(expected)


def _first_user(*expected: str) -> Values:
    """The first user's items in time order."""
    return lambda _, rows: rows.filter(pl.col("user_id") == rows["user_id"].min()).sort("position")[
        "item_id"].to_list()[: len(expected)] == list(expected)


def _year(expected: int) -> Values:
    return lambda _, rows: set(pl.from_epoch(rows["timestamp"]).dt.year()) == {expected}


_ORDER = _first_user("i0", "i3", "i6")
_READ = Check(0, (_ALL,), values=_ORDER)
_ERROR = r"^error: "
CHECKS: Final[dict[str, Check]] = {
    "01-bracket-title": Check(0, (_ALL,), values=lambda items, _: _titles(
        "[REC] 2", "[3 Pack] Men's Socks & Women's Gloves", "[Upgraded] Phone Case")(items, _)
        and items.sort("item_id")["category"].to_list()[1] == "[Toys] & Games"),
    "02-float-ids": Check(0, (_ALL,), ("unknown",), lambda items, _: items["title"].null_count() == 0),
    "03-nan-id": Check(2, (rf"{_ERROR}.*3 rows with a missing item id", r"filter\.bad_rows=drop")),
    "04-csv-float-ids": Check(0, (_ALL, r"0\.0 is read as 0"), values=lambda items, rows: (
        items["title"].null_count() == 0 and _first_user("0", "3", "6")(items, rows))),
    "05-jsonl-bom": _READ,
    "06-csv-gz-badutf8": Check(2, (rf"{_ERROR}.*byte 100 \(0xe9\) is not UTF-8", r"prepare\.source\.encoding")),
    "06-csv-gz-latin1": Check(0, (_ALL,)),
    "06-jsonl-gz": _READ,
    "07-bracket-path": _READ,
    "08-directory": _READ,
    "08-success-file": _READ,
    "10-fraction-parquet": _READ,
    "10-fraction-seconds": _READ,
    "11-yyyymmdd": Check(0, (_ALL, "read as dates YYYYMMDD"), values=_year(2024)),
    "12-pq-decimal-time": Check(0, (_ALL,), values=_year(2020)),
    "12-pq-duration": Check(2, (rf"{_ERROR}.*column 'timestamp' holds durations; legal: ",)),
    "12-pq-list-item": Check(2, (rf"{_ERROR}.*column 'item_id' holds lists of text; legal: ",)),
    "12-pq-struct-item": Check(2, (rf"{_ERROR}.*column 'item_id' holds structs; legal: ",)),
    "13-entities": Check(0, (_ALL,), values=_titles("L’Oréal", "Rock & Roll")),
    "13b-jsonl-late-key": Check(0, ("210 rows = 210 kept",)),
    "13b-jsonl-pretty": Check(2, (rf"{_ERROR}.*one JSON document; legal: JSON lines, one object per line",)),
    "14-missing-words": Check(  # an item without a title is called by its next text
        0, (_ALL, r"3 in title; prepare\.source\.missing_words"), values=_titles(*["words of item"] * 3, "NULL")),
    "15-id-spaces": Check(0, (_ALL,), values=lambda items, rows: (
        items["title"].null_count() == 0 and _ORDER(items, rows))),
    "17-headerless": Check(2, (rf"{_ERROR}.*the first line looks like data: .*prepare\.source\.columns=",)),
    "17-tab-word": _READ,
    "17-two-char-separator": _READ,
    "19-seq-csvlist": Check(2, (rf"{_ERROR}.*line 1 \('0,0,1,2,3,4'\)",)),
    "19-seq-empty": Check(0, (r"62 rows = 60 kept \+ 2 dropped \(2 user_without_items\)",)),
    "20-time-comma": Check(0, (_ALL,), values=lambda items, rows: _year(2020)(items, rows) and _ORDER(items, rows)),
    "20-time-firstbad": Check(2, (rf"{_ERROR}.*: 1 row with a missing or unreadable time: data row 1 \('unknown'\)",)),
    "21-parquet-no-suffix": _READ,
    "21-parquet-parq": _READ,
    "21-xlsx": Check(2, (rf"{_ERROR}.*an Excel workbook, which is not read; legal: ",)),
    "21-zip": Check(2, (rf"{_ERROR}.*\.zip: ", "legal: CSV")),
    "22-s3": Check(2, (rf"{_ERROR}.*'s3://bucket/events\.parquet'; legal: local paths only",)),
    "32-no-item-text": Check(2, (rf"{_ERROR}.*8 of the 8 items are not in the item table \(such as 'i0'; .*'zz'\)",)),
    "31-umap-identical": Check(2, (rf"{_ERROR}reduce: all 30 vectors are alike",)),
    "40-own-packages": Check(0, ("^run |report",), (_ERROR,)),
    "40b-own-module": Check(0, ("^run |report",), (_ERROR,)),
    "41-long-tmpdir": Check(0, (), (_ERROR,)),
    "42-storage-variable": Check(0, (), (_ERROR, r"\$SCRATCH")),
    "43-disk-full": Check(2, (
        rf"{_ERROR}\$OUT/small.* the disk is full \([\d.]+ of 3 MiB free\)",
        rf"{_ERROR}\$OUT/small.* the disk is full \([\d.]+ of 6 MiB free\)"), (rf"{_ERROR}(?!\$OUT/small)",)),
    "44-ascii-stdout": Check(0, (), (_ERROR,)),
    "50-tune": Check(0, (r"failed",), (r"\r",)),
    "60-answers": Check(0, tuple(f"^{name}: exit 0" for name in (
        "think", "surrogate-one", "nomessage-one", "list", "usage-str", "finish-int")) + (
        "^choice-null: exit 2", "^422seed: exit 2", "^429quota: exit 2", f"{_ERROR}.*quota")),
}
"""By the name of the case; one without a check has no verdict."""
