"""Valid small raw files of every layout, damage done to them, and what `prepare` makes of it."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import MentorecError
from pipeline.prepare import keys
from pipeline.prepare.config import (
    FilterConfig,
    InteractionColumns,
    MovieLensSource,
    PrepareConfig,
    SequencesSource,
    SourceConfig,
    TableSource,
)
from pipeline.prepare.stage import prepare
from pipeline.store import artifacts

NAMES = ("user_id", "item_id", "timestamp", "rating")
ROWS = [(f"u{user:02}", f"i{(7 * user + 3 * place) % 11}", 1_600_000_000 + 61 * (5 * user + place), 1 + place % 5)
        for user in range(9) for place in range(4)]
ITEMS = [(f"i{item}", f"Title {item}, Ünique", f"group {item % 3}") for item in range(11)]
_JARGON = re.compile(r"polars|arrow\b|pyo3|rust|traceback|thrift|resolved plan|ComputeError|SchemaError|Invalid:|0x0000"
                     r"|FFI|std::|\bnull_count|nan is not", re.IGNORECASE)
_LONGEST_MESSAGE = 900


# --- valid files ---


@dataclass(frozen=True)
class Layout:
    """A source of two files."""

    source: Callable[[Path], SourceConfig]
    files: dict[str, bytes]


def _delimited(separator: str, header: bool = True, rows: list[tuple[Any, ...]] = ROWS,
               names: tuple[str, ...] = NAMES) -> bytes:
    lines = [names, *rows] if header else rows
    return "".join(separator.join(map(str, line)) + "\n" for line in lines).encode()


def _json_lines(rows: list[tuple[Any, ...]], names: tuple[str, ...]) -> bytes:
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows).encode()


def _parquet(rows: list[tuple[Any, ...]], names: tuple[str, ...]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({name: [row[place] for row in rows] for place, name in enumerate(names)}), buffer)
    return buffer.getvalue()


def _table(suffix: str, **settings: Any) -> Callable[[Path], SourceConfig]:
    def source(folder: Path) -> SourceConfig:
        return TableSource(interactions=f"{folder}/events{suffix}", items=f"{folder}/items{suffix}",
                           columns=InteractionColumns(signal="rating"), category="group", **settings)

    return source


_ITEM_NAMES = ("item_id", "title", "group")
_QUOTED_ITEMS = [(item, f'"{title}"', group) for item, title, group in ITEMS]
LAYOUTS: dict[str, Layout] = {
    "csv": Layout(_table(".csv"), {"events.csv": _delimited(","),
                                   "items.csv": _delimited(",", rows=_QUOTED_ITEMS, names=_ITEM_NAMES)}),
    "tsv": Layout(_table(".tsv", separator="tab"), {
        "events.tsv": _delimited("\t"), "items.tsv": _delimited("\t", rows=ITEMS, names=_ITEM_NAMES)}),
    "jsonl": Layout(_table(".jsonl"), {"events.jsonl": _json_lines(ROWS, NAMES),
                                       "items.jsonl": _json_lines(ITEMS, _ITEM_NAMES)}),
    "gz": Layout(_table(".csv.gz"), {
        "events.csv.gz": gzip.compress(_delimited(","), mtime=0),
        "items.csv.gz": gzip.compress(_delimited(",", rows=_QUOTED_ITEMS, names=_ITEM_NAMES), mtime=0)}),
    "parquet": Layout(_table(".parquet"), {"events.parquet": _parquet(ROWS, NAMES),
                                           "items.parquet": _parquet(ITEMS, _ITEM_NAMES)}),
    "sequences": Layout(
        lambda folder: SequencesSource(interactions=f"{folder}/users.txt", items=f"{folder}/items.txt"),
        {"users.txt": "".join(f"u{user} " + " ".join(row[1] for row in ROWS[4 * user:4 * user + 4]) + "\n"
                              for user in range(9)).encode(),
         "items.txt": _delimited(" ", header=False, rows=ITEMS)}),
    "movielens": Layout(lambda folder: MovieLensSource(folder=str(folder)), {
        "ratings.dat": _delimited("::", header=False, rows=[(u, i, rating, when) for u, i, when, rating in ROWS]),
        "movies.dat": "".join(f"{item}::{title} (1999)::{group}|Drama\n" for item, title, group in ITEMS).encode()}),
}


# --- damage ---

Draw = Callable[[int], int]
"""A number from 0 up to, not including, the argument."""


def _flip(data: bytes, draw: Draw) -> bytes:
    changed = bytearray(data)
    for _ in range(1 + draw(4)):
        changed[draw(len(data))] ^= 1 << draw(8)
    return bytes(changed)


def _overwrite(data: bytes, draw: Draw) -> bytes:
    start = draw(len(data))
    filling = (b"\0" * 16, b"\xff" * 7, b'"', b"\r", b",,,,", b"\n\n", b"\x1f\x8b\x08", "é".encode("latin-1"),
               b"\xef\xbb\xbf", b"[{", b"1e999", b"NaN")[draw(12)]
    return data[:start] + filling + data[start + len(filling) * draw(2):]


def _truncate(data: bytes, draw: Draw) -> bytes:
    return data[:draw(len(data))]


def _cut_lines(data: bytes, draw: Draw) -> bytes:
    """Some lines lose their ends, some go."""
    lines = data.splitlines(keepends=True)
    for _ in range(1 + draw(3)):
        place = draw(len(lines))
        lines[place] = lines[place][:draw(len(lines[place]) + 1)]
    return b"".join(lines)


def _swap_columns(data: bytes, draw: Draw) -> bytes:
    """Of the lines from some line on; words of JSON lines swap likewise."""
    separator = next((sign for sign in (b"::", b"\t", b", ", b",", b" ") if sign in data), b",")
    lines = data.split(b"\n")
    for place in range(draw(len(lines)), len(lines)):
        fields = lines[place].split(separator)
        first, second = draw(len(fields)), draw(len(fields))
        fields[first], fields[second] = fields[second], fields[first]
        lines[place] = separator.join(fields)
    return b"\n".join(lines)


def _retype(data: bytes, draw: Draw) -> bytes:
    """A field becomes something else."""
    values = (b"", b"nan", b"null", b"true", b"-1", b"1e30", b"2020-01-01", b"[1, 2]", b'{"a": 1}', b'"', b"12.0",
              b"\xc3\xbc", b"99999999999999999999", b"1600000000.25", b"0x1F", b"None")
    fields = list(re.finditer(rb"[^,\t\n:{} ]+", data))
    if not fields:
        return data
    for _ in range(1 + draw(2)):
        found = fields[draw(len(fields))]
        data = data[:found.start()] + values[draw(len(values))] + data[found.end():]
    return data


def _repeat(data: bytes, draw: Draw) -> bytes:
    """A line again, the file twice, or an older file's tail behind it."""
    lines = data.splitlines(keepends=True)
    return (data + lines[draw(len(lines))], data + data, data + data[draw(len(data)):])[draw(3)]


TEXT_DAMAGE: dict[str, Callable[[bytes, Draw], bytes]] = {
    "bytes flipped": _flip, "bytes put in": _overwrite, "truncated": _truncate, "lines cut": _cut_lines,
    "columns swapped": _swap_columns, "types changed": _retype, "lines repeated": _repeat,
}


def _retype_parquet(data: bytes, draw: Draw) -> bytes:
    table = pq.read_table(io.BytesIO(data))
    place = draw(table.num_columns)
    size = table.num_rows
    others: list[pa.Array] = [
        pa.nulls(size), pa.array([None, *range(size - 1)]), pa.array([float("nan")] * size),
        pa.array([Decimal(n) for n in range(size)]), pa.array([str(n) for n in range(size)]).dictionary_encode(),
        pa.array([[n] for n in range(size)]), pa.array([{"a": n} for n in range(size)]),
        pa.array(range(size), pa.duration("s")), pa.array(range(size), pa.time32("s")), pa.array([b"\xff"] * size),
        pa.array(range(size), pa.timestamp("ns", "Europe/Berlin")), pa.array([True] * size),
        pa.array([2**64 - 1 - n for n in range(size)], pa.uint64()), pa.array([-n for n in range(size)]),
        pa.array([datetime(2020, 1, 1 + n % 28, tzinfo=UTC) for n in range(size)]), pa.array(range(size), pa.float16()),
        pa.array([b"0123456789abcdef"] * size, pa.binary(16)), pa.array([""] * size)]
    buffer = io.BytesIO()
    pq.write_table(table.set_column(place, table.column_names[place], others[draw(len(others))]), buffer)
    return buffer.getvalue()


def _swap_parquet(data: bytes, draw: Draw) -> bytes:
    table = pq.read_table(io.BytesIO(data))
    names = list(table.column_names)
    first, second = draw(len(names)), draw(len(names))
    names[first], names[second] = names[second], names[first]
    buffer = io.BytesIO()
    pq.write_table(table.rename_columns(names), buffer)
    return buffer.getvalue()


PARQUET_DAMAGE: dict[str, Callable[[bytes, Draw], bytes]] = {
    "bytes flipped": _flip, "bytes put in": _overwrite, "truncated": _truncate, "columns swapped": _swap_parquet,
    "types changed": _retype_parquet,
}


@dataclass(frozen=True)
class Case:
    """One damaged source."""

    layout: str
    damage: str
    file: str
    data: bytes
    bad_rows: str

    def __str__(self) -> str:
        return f"{self.layout}, {self.damage} in {self.file} ({self.bad_rows} bad rows): {self.data!r}"


def damaged(draw: Draw) -> Case:
    """Damage of one kind to one file of one layout; a packed file is damaged inside or outside."""
    layout = sorted(LAYOUTS)[draw(len(LAYOUTS))]
    kinds = PARQUET_DAMAGE if layout == "parquet" else TEXT_DAMAGE
    kind = sorted(kinds)[draw(len(kinds))]
    file = list(LAYOUTS[layout].files)[draw(3) // 2]  # of the interactions twice as often as of the items
    data = LAYOUTS[layout].files[file]
    inside = layout == "gz" and draw(2) == 1
    changed = kinds[kind](gzip.decompress(data) if inside else data, draw)
    return Case(layout, kind, file, gzip.compress(changed, mtime=0) if inside else changed, ("error", "drop")[draw(2)])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Damaged sources, as hypothesis draws them."""
    return damaged(lambda stop: draw(st.integers(0, max(0, stop - 1))))


# --- what comes out ---


@dataclass(frozen=True)
class Outcome:
    """What `prepare` made of a case."""

    refused: str | None
    """The message; None: it ran."""
    rows: int = 0
    kept: int = 0
    dropped: int = 0


def outcome(case: Case) -> Outcome:
    """Run `prepare` on a case and check what is promised.

    Raises:
        AssertionError: a message that is not one plain line, an artifact beside an error, rows that are lost.
    """
    shm = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=shm if shm.is_dir() else None))
    try:
        raw = folder / "raw"
        raw.mkdir()
        for name, data in LAYOUTS[case.layout].files.items():
            (raw / name).write_bytes(case.data if name == case.file else data)
        config = PrepareConfig(source=LAYOUTS[case.layout].source(raw), filter=FilterConfig(bad_rows=case.bad_rows))
        storage = Storage.from_config(StorageConfig(uri=str(folder / "storage")))
        try:
            out = artifacts.begin(storage, keys.key(config))
            try:
                artifact = prepare(config, out)
            finally:
                out.release()
        except MentorecError as exc:
            _check_message(str(exc), str(raw))
            left = {path.name for path in (folder / "storage").rglob("*") if path.is_file()}
            assert left <= {"key.json", "lease.json.guard"}, f"files are left: {sorted(left)}"
            return Outcome(str(exc).replace(str(raw), ""))
        stats = artifact.read_json("stats.json")
    finally:
        shutil.rmtree(folder)
    dropped = sum(stats["dropped"].values())
    assert stats["raw_rows"] == stats["interactions"] + dropped, "rows are lost"
    rows = _rows(case)
    assert rows is None or stats["raw_rows"] == rows, f"{stats['raw_rows']} rows are read of {rows}"
    return Outcome(None, stats["raw_rows"], stats["interactions"], dropped)


def _check_message(message: str, folder: str) -> None:
    assert "\n" not in message and message.isprintable(), f"not one line: {message!r}"
    assert message.startswith((folder, "prepare.")), f"names no file and no setting: {message}"
    assert len(message) < _LONGEST_MESSAGE, f"too long: {message}"
    said = _JARGON.search(message.replace(folder, ""))
    assert said is None, f"the words of an engine, {said}: {message}"


def _rows(case: Case) -> int | None:
    """The rows that the interactions hold, counted without the reader; None: not to be told in a simple way."""
    names = list(LAYOUTS[case.layout].files)
    data = case.data if case.file == names[0] else LAYOUTS[case.layout].files[names[0]]
    if case.layout == "parquet":
        return int(pq.ParquetFile(io.BytesIO(data)).metadata.num_rows)
    if case.layout == "gz":
        data = gzip.decompress(data)
    if case.layout == "sequences" or (b'"' in data and case.layout != "jsonl"):
        return None
    ends = rb"\n" if case.layout == "jsonl" else rb"\r\n|\n|\r"
    lines = sum(1 for line in re.split(ends, data.removeprefix(b"\xef\xbb\xbf")) if line.strip(b" \r\t") or (
        line and case.layout != "jsonl"))
    return lines - (case.layout in ("csv", "tsv", "gz"))
