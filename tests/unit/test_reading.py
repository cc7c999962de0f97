"""What a person sees of a raw file that takes long to read: how far, how fast, how long still."""

from __future__ import annotations

import bz2
import gzip
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.prepare import csv_batches, json_batches, parquet_batches, reading, streams
from pipeline.prepare.tables import TableReader
from pipeline.work import progress

ROWS = 4000
CSV = "user,item\n" + "".join(f"user-{row * 7919 % 10007},item-{row * 104729 % 1009}\n" for row in range(ROWS))
JSON = "".join(f'{{"user": "u{row}", "item": "i{row * 7919 % 10007}"}}\n' for row in range(ROWS))
LINE = re.compile(r"prepare: reading \S+: (\d+) % \([\d,]+ of [\d,]+ MB\), .+ left; ([\d,]+) rows, [\d,.]+ rows/s")


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.csv", data)
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


@pytest.fixture(autouse=True)
def long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line at every tenth, of files that are read in small pieces."""
    monkeypatch.setattr(progress, "_FIRST_LINE_S", 0.0)
    monkeypatch.setattr(progress, "_BETWEEN_LINES_S", 0.0)
    monkeypatch.setattr(reading, "_MB", 100)
    monkeypatch.setattr(csv_batches, "BLOCK_BYTES", 1 << 11)
    monkeypatch.setattr(json_batches, "_BLOCK_BYTES", 1 << 11)
    monkeypatch.setattr(parquet_batches, "_BATCH_ROWS", ROWS // 20)
    monkeypatch.setattr(streams, "_CHUNK_BYTES", 1 << 11)


@pytest.mark.parametrize(("text", "pack", "name"), [
    (CSV, bytes, "a.csv"), (CSV, gzip.compress, "a.csv.gz"), (CSV, bz2.compress, "a.csv.bz2"), (CSV, zstd, "a.csv.zst"),
    (CSV, zipped, "a.zip"), (JSON, bytes, "a.jsonl"), (JSON, gzip.compress, "a.jsonl.gz")])
def test_text(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, pack: Callable[[bytes], bytes], name: str
              ) -> None:
    path = tmp_path / name
    path.write_bytes(pack(text.encode()))
    frame = TableReader().scan(path, {"user": "id", "item": "id"})
    capsys.readouterr()
    assert frame.select(pl.len()).collect(engine="streaming").item() == ROWS
    told = [LINE.fullmatch(line) for line in capsys.readouterr().err.splitlines()]
    assert told and all(told)
    tenths, rows = ([int(line[group].replace(",", "")) for line in told if line] for group in (1, 2))
    assert tenths == sorted(set(tenths)) and tenths[-1] < 100
    assert rows == sorted(rows) and 0 < rows[-1] <= ROWS
    if name in ("a.csv", "a.jsonl"):  # what is packed is read a buffer at a time
        assert [tenth // 10 for tenth in tenths] == list(range(1, 10))
        assert rows == pytest.approx([ROWS * tenth / 100 for tenth in tenths], rel=0.15)


def test_parquet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"user": [f"u{row}" for row in range(ROWS)]}), path)
    assert TableReader().scan(path, {"user": "id"}).collect(engine="streaming").height == ROWS
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        f"prepare: reading a.parquet: {tenth}0 %" for tenth in range(1, 10)]
    assert "rows/s, about" in lines[0]
