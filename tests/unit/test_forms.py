"""The form of a raw file is told by its first bytes: read the same, or named in one line."""

from __future__ import annotations

import bz2
import gzip
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from configs.errors import DataError
from tests.raw_files import CSV, EXPECTED, JSONL, ROWS, read, zipped, zstd

# --- packed, encoded, named as it pleases ---


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, zstd, zipped])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
@pytest.mark.parametrize(("name", "text"), [("t.csv", CSV), ("events", CSV), ("t.csv.gz", CSV), ("t.jsonl", JSONL),
                                            ("t.jsonl.gz", JSONL), ("events", JSONL)])
def test_text_is_told_by_its_first_bytes(tmp_path: Path, pack: Callable[[bytes], bytes], encoding: str, name: str,
                                         text: str) -> None:
    path = tmp_path / name
    path.write_bytes(pack(text.encode(encoding)))
    assert read(path, encoding=encoding) == EXPECTED


@pytest.mark.parametrize("name", ["t.parquet", "t.parq", "part-00000", "t.csv", "t.csv.gz"])
def test_parquet_is_told_by_its_first_bytes(tmp_path: Path, name: str) -> None:
    pl.read_csv(CSV.encode(), schema_overrides={"item_id": pl.String}).write_parquet(tmp_path / name)
    assert read(tmp_path / name) == EXPECTED


def foreign(kind: str, path: Path) -> None:
    table = pa.table({"user_id": ["a"], "item_id": ["b"]})
    match kind:
        case "feather":
            pyarrow.feather.write_feather(table, path)
        case "orc":
            pyarrow.orc.write_table(table, path)
        case "pickle":
            path.write_bytes(pickle.dumps(ROWS))
        case "xlsx":
            path.write_bytes(zipped(b"<x/>", "xl/workbook.xml"))
        case "two files":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a.csv", CSV)
                archive.writestr("b.csv", CSV)
        case "packed parquet":
            pq.write_table(table, path)
            path.write_bytes(gzip.compress(path.read_bytes()))
        case "tar":
            path.write_bytes(gzip.compress(b"a".ljust(257, b"\0") + b"ustar\0" + b"\0" * 300))
        case "sqlite":
            path.write_bytes(b"SQLite format 3\0" + b"\1" * 80)


@pytest.mark.parametrize(("kind", "words"), [
    ("feather", "an Arrow or Feather file, which is not read; legal: CSV and other delimited text, JSON lines, Parq"),
    ("orc", "an ORC file"), ("pickle", "a Python pickle"), ("xlsx", "an Excel workbook"), ("sqlite", "an SQLite data"),
    ("two files", "a zip archive of 2 files; legal: an archive of one text file"), ("tar", "a tar archive"),
    ("packed parquet", "a Parquet file packed with gzip; unpack it"),
])
def test_another_form_is_named(tmp_path: Path, kind: str, words: str) -> None:
    path = tmp_path / "t.csv"
    foreign(kind, path)
    with pytest.raises(DataError, match="t.csv: ") as caught:
        read(path)
    assert words in str(caught.value)


@pytest.mark.parametrize(("pack", "words"), [
    (gzip.compress, "damaged: its gzip content is cut off or changed"),
    (bz2.compress, "damaged: its bzip2 content is cut off or changed"),
    (zipped, "a damaged zip archive"),
])
def test_a_packed_file_that_was_cut_off(tmp_path: Path, pack: Callable[[bytes], bytes], words: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(pack(CSV.encode())[:-20])
    with pytest.raises(DataError, match=words):
        read(path)


def test_bytes_that_are_not_in_the_encoding_are_told_by_their_place_in_the_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(CSV.encode("latin-1")))
    with pytest.raises(DataError, match=rf"byte {CSV.index('é')} \(0xe9\) is not UTF-8; set prepare.source.encoding"):
        read(path)


# --- JSON lines ---


def test_json_constants_late_keys_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('\n{"user_id": "a", "item_id": 12345678901234567890123, "timestamp": 5}\r\n' * 101
                    + '{"user_id": "b", "item_id": "x", "timestamp": 1500000000.5, "rating": NaN}\n'
                      '{"user_id": "b", "item_id": "y", "timestamp": 6, "rating": 3}')
    rows = read(path)
    assert len(rows) == 103
    assert rows[0] == ("a", "12345678901234567890123", 5, None)
    assert rows[-1] == ("b", "y", 6, 3.0)
    assert rows[-2][3] is None  # NaN is no rating, as null is


@pytest.mark.parametrize(("text", "message"), [
    ('[\n {\n  "user_id": "a"', "this file is one JSON document; legal: JSON lines"),
    ('[{"user_id": "a"}]', "this file is one JSON document; legal: JSON lines"),
    ('{\n  "user_id": "a"\n}', "this file is one JSON document; legal: JSON lines"),
    (JSONL + '{"user_id"', "line 3 is not JSON"), (JSONL + "7\n", "line 3 is a JSON number"),
    (JSONL + "[" * 100_000 + "\n", "line 3 is n"),
    (JSONL.replace('"007"', '["007"]'), "'item_id' holds lists; legal: text or whole numbers"),
    (JSONL.replace("1500000000", '{"s": 1}'), "column 'timestamp' holds objects; legal: dates"),
])
def test_bad_json_lines(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read(path)
    assert message in str(caught.value)
