"""What `tests/bench/cases.py` holds each case to: exit code, what is printed, what is written, what is read.

``CHECKS`` is the table; a case that is not in it has no verdict.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import polars as pl


@dataclass(frozen=True)
class Read:
    """Values of the `prepare` artifact; what is not named is not looked at."""

    titles: Mapping[str, str] = field(default_factory=dict)
    """By item id."""
    categories: Mapping[str, str] = field(default_factory=dict)
    orders: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By user id: all its items in time order."""
    began: Mapping[str, int] = field(default_factory=dict)
    """By user id: Unix seconds of the first event."""
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By user id."""

    def misses(self, out: Path) -> Iterator[str]:
        """Every value that differs."""
        folder = next((path.parent for path in out.rglob("artifacts/prepare/**/items.parquet")), None)
        if folder is None:
            yield "nothing was prepared"
            return
        items, users = pl.read_parquet(folder / "items.parquet"), pl.read_parquet(folder / "users.parquet")
        rows = (pl.read_parquet(folder / "interactions.parquet").join(items.select("item_idx", "item_id"), "item_idx")
                .join(users.select("user_idx", "user_id"), "user_idx").sort("user_idx", "position"))
        per_user = rows.group_by("user_id", maintain_order=True).agg("item_id", pl.col("timestamp").first())
        for what, wanted, found in (
                ("title", self.titles, _by(items, "item_id", "title")),
                ("category", self.categories, _by(items, "item_id", "category")),
                ("order", self.orders, _by(per_user, "user_id", "item_id")),
                ("first time", self.began, _by(per_user, "user_id", "timestamp")),
                ("attributes", self.attributes, _by(users, "user_id", "attributes"))):
            yield from (f"{what} of {key}: {found.get(key)!r}, not {value!r}" for key, value in wanted.items()
                        if found.get(key) != value)


@dataclass(frozen=True)
class Check:
    """All must hold; beside it, no traceback of ours, and rows that add up."""

    code: int
    printed: tuple[str, ...] = ()
    """Patterns, each found in what the case printed or in its counts of rows."""
    not_printed: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """Patterns of paths in the output folder, each with a file or folder."""
    read: Read | None = None
    profiles_without: tuple[str, ...] = ()
    """Patterns that no profile text holds."""
    left_open: str = ""
    """What the case's command does not show of all that must be, and who does."""

    def misses(self, code: int, printed: str, out: Path) -> list[str]:
        """What does not hold, in words."""
        found = [] if code == self.code else [f"exit {code}, not {self.code}"]
        found += [f"not printed: {each}" for each in self.printed if not re.search(each, printed, re.MULTILINE)]
        found += [f"printed: {each}" for each in self.not_printed if re.search(each, printed, re.MULTILINE)]
        found += [f"not written: {each}" for each in self.files if not any(out.glob(each))]
        if self.read is not None and code == 0:
            found += self.read.misses(out)
        for path in sorted(out.glob("artifacts/profile/**/profiles/*.parquet")) if self.profiles_without else ():
            texts = pl.read_parquet(path)["profile"]
            found += [f"in a profile: {each}" for each in self.profiles_without if texts.str.contains(each).any()]
        return found


def _by(table: pl.DataFrame, key: str, value: str) -> dict:
    return dict(zip(table[key].to_list(), table[value].to_list(), strict=True))


def _built(*steps: str) -> tuple[str, ...]:
    return tuple(f"artifacts/{step}/*/manifest.json" for step in steps)


_ALL = r"^60 rows = 60 kept \+ 0 dropped$"
_ERROR = r"^error: "
_BEGAN = 1_600_000_000
_ORDERS = {f"u{user:02d}": [f"i{(user + 3 * step) % 8}" for step in range(5)] for user in range(12)}
"""Of the small table that most cases write in a form of their own."""
_NUMBERS = {str(user): [str((user + 3 * step) % 8) for step in range(5)] for user in range(12)}
"""The same with numbers for ids."""
_THINGS = {str(item): f"Thing number {item}" for item in range(8)}
_READ = Check(0, (_ALL,), read=Read(orders=_ORDERS, began={"u00": _BEGAN}))
CHECKS: Final[dict[str, Check]] = {
    "01-bracket-title": Check(0, (_ALL,), read=Read(
        {"i0": "[REC] 2", "i1": "[3 Pack] Men's Socks & Women's Gloves", "i2": "[Upgraded] Phone Case",
         "i3": "['Blue', 'Red'] Shirt", "i4": "A, B", "i5": '[2010] "Blue" Album', "i7": "[Deluxe Edition]"},
        {"i0": "Toys", "i1": "[Toys] & Games"}, _ORDERS)),
    "02-float-ids": Check(0, (_ALL,), ("unknown",), read=Read(
        _THINGS, orders=_NUMBERS, attributes={str(user): {"age": str(20 + user)} for user in range(12)})),
    "03-nan-id": Check(2, (rf"{_ERROR}.*: 3 rows with a missing item id: data row 6 \('NaN'\)",
                           r"filter\.bad_rows=drop")),
    "04-csv-float-ids": Check(0, (_ALL, r"0\.0 is read as 0"), read=Read(
        _THINGS, orders={f"u{int(user):02d}": order for user, order in _NUMBERS.items()})),
    "05-jsonl-bom": _READ,
    "06-csv-gz-badutf8": Check(2, (rf"{_ERROR}.*byte 100 \(0xe9\) is not UTF-8", r"prepare\.source\.encoding")),
    "06-csv-gz-latin1": Check(0, (_ALL,), read=Read(orders={
        user: ["café" if item == "i1" else item for item in items] for user, items in _ORDERS.items()})),
    "06-jsonl-gz": _READ,
    "07-bracket-path": _READ,
    "08-directory": _READ,
    "08-success-file": _READ,
    "10-fraction-parquet": _READ,
    "10-fraction-seconds": _READ,
    "11-yyyymmdd": Check(0, (_ALL, "20240128 are read as dates YYYYMMDD"),
                         read=Read(orders=_ORDERS, began={"u00": 1_706_400_000})),
    "12-pq-decimal-time": _READ,
    "12-pq-duration": Check(2, (rf"{_ERROR}.*column 'timestamp' holds durations; legal: ",)),
    "12-pq-list-item": Check(2, (rf"{_ERROR}.*column 'item_id' holds lists of text; legal: ",)),
    "12-pq-struct-item": Check(2, (rf"{_ERROR}.*column 'item_id' holds structs; legal: ",)),
    "13-entities": Check(0, (_ALL,), read=Read({
        "i0": "L’Oréal", "i1": "Rock & Roll", "i2": "5¢ &amp; up", "i4": "I <3 NY", "i5": "x < y and y > z",
        "i6": "Café — noir"}, orders=_ORDERS)),
    "13b-jsonl-late-key": Check(0, (r"^210 rows = 210 kept \+ 0 dropped$",), read=Read(orders=_ORDERS)),
    "13b-jsonl-pretty": Check(2, (rf"{_ERROR}.*one JSON document; legal: JSON lines, one object per line",)),
    "14-missing-words": Check(  # an item without a title is called by its next text
        0, (_ALL, r"3 in title; prepare\.source\.missing_words"),
        read=Read(dict.fromkeys(("i0", "i1", "i2"), "words of item") | {"i3": "NULL", "i4": "N/A"})),
    "15-id-spaces": Check(0, (_ALL,), read=Read({f"i{item}": f"Thing {item}" for item in range(8)}, orders=_ORDERS)),
    "17-headerless": Check(
        2, (rf"{_ERROR}.*the first line looks like data: .*prepare\.source\.columns=",),
        left_open="reading it by positions (tests/unit/test_columns.py)"),
    "17-tab-word": _READ,
    "17-two-char-separator": _READ,
    "19-seq-csvlist": Check(2, (rf"{_ERROR}.*line 1 \('0,0,1,2,3,4'\)",)),
    "19-seq-empty": Check(0, (r"^62 rows = 60 kept \+ 2 dropped \(2 user_without_items\)$",), read=Read(
        {"0": "Thing [0] & co"}, orders={"0": list("01234"), "1": list("34567"), "11": list("67801")})),
    "20-time-comma": _READ,
    "20-time-firstbad": Check(2, (rf"{_ERROR}.*: 1 row with a missing or unreadable time: data row 1 \('unknown'\)",)),
    "21-parquet-no-suffix": _READ,
    "21-parquet-parq": _READ,
    "21-xlsx": Check(2, (rf"{_ERROR}.*an Excel workbook, which is not read; legal: ",)),
    "21-zip": Check(2, (rf"{_ERROR}.*\.zip: ", "legal: CSV")),
    "22-s3": Check(2, (rf"{_ERROR}.*'s3://bucket/events\.parquet'; legal: local paths only",)),
    "32-no-item-text": Check(2, (rf"{_ERROR}.*8 of the 8 items are not in the item table \(such as 'i0'; .*'zz'\)",)),
    "31-umap-identical": Check(2, (rf"{_ERROR}reduce: all 30 vectors are alike",)),
    "40-own-packages": Check(0, (), (_ERROR,), (*_built("profile", "encode", "train", "evaluate"),
                                                "runs/tiny/report.html")),
    "40b-own-module": Check(0, (), (_ERROR,), (*_built("profile", "encode", "train", "evaluate"),
                                               "runs/tiny/report.html")),
    "41-long-tmpdir": Check(0, (), (_ERROR,), _built("profile")),
    "42-storage-variable": Check(0, (), (_ERROR, r"\$SCRATCH"), ("scratch/results/artifacts/prepare/*/manifest.json",),
                                 left_open="an undefined variable (tests/unit/test_storage.py)"),
    "43-disk-full": Check(2, (
        rf"{_ERROR}\$OUT/small.* the disk is full \([\d.]+ of 3\.0 MiB free\)",
        rf"{_ERROR}\$OUT/small.* the disk is full \([\d.]+ of 6\.0 MiB free\)"), (rf"{_ERROR}(?!\$OUT/small)",),
        left_open="every stage, and the same command with room (tests/faults/test_small_disk.py)"),
    "44-ascii-stdout": Check(0, (r"^prepare  built ", r"^prepare  reused ", r"^\?{7}  \?{5}"), (_ERROR,),
                             _built("prepare")),
    "50-tune": Check(0, (
        r"^4 trials, 1 failed; the best: ", r"^2 trials, 1 failed; the best: ",
        r"^tune: trial \d of 4 failed \(.*num_heads=4.*\): ", r"^tune: trial \d of 2 failed \(.*lr=1e\+18.*\): "),
        (r"\r",), ("tune/combos/leaderboard.csv", "tune/nan/leaderboard.csv"),
        left_open="--quiet (tests/unit/test_leaderboard.py)"),
    "60-answers": Check(0, (
        *(f"^{name}: exit 0" for name in ("think", "surrogate-one", "nomessage-one", "list", "usage-str",
                                          "finish-int")),
        "^choice-null: exit 2", "^422seed: exit 2", "extra fields not permitted", "^429quota: exit 2",
        rf"{_ERROR}.*You exceeded your current quota"), (),
        _built("profile"), profiles_without=("think>", "Let me look at"),
        left_open="a missing opening tag, a status of 402 (tests/unit/test_llm_client.py, tests/unit/test_gate.py)"),
}
"""By the name of the case."""
