"""Raw CSV, JSONL and Parquet files as lazy polars tables, and their faults as one-line errors."""

from __future__ import annotations

import codecs
import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import DataError
from pipeline.prepare.csv_batches import scan_csv
from pipeline.prepare.files import check_readable, is_jsonl, is_parquet, undecodable

_CHUNK_BYTES = 1 << 22
_NO_SEPARATOR = "\x1f"
"""Unit separator: stands in no text."""
_PEEK_LINES = 100


class TableReader:
    """Scans raw files in one encoding. Files that are not UTF-8 are rewritten into a folder that lives as long as it.

    CSV and JSONL columns are all read as text: an id ``007`` stays ``007``, and numbers are parsed where a failure can
    be told with its row.
    """

    def __init__(self, encoding: str = "utf-8", separator: str = ",") -> None:
        try:
            self._encoding = codecs.lookup(encoding).name
        except LookupError as exc:
            raise DataError(f"prepare.source.encoding: got {encoding!r}; legal: a name Python knows, such as utf-8, "
                            "latin-1, cp1252, utf-16") from exc
        self._separator = separator
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.files: list[Path] = []
        """The original files scanned so far, for messages."""

    def scan(self, path: Path, columns: Sequence[str] | None = None, optional: Sequence[str] = ()) -> pl.LazyFrame:
        """The named columns of one file, in this order; ``optional`` ones where they are there; None: all.

        Raises:
            DataError: the file is damaged, or lacks a column.
        """
        self._check(path)
        frame, present = self._open(path, [*(columns or ()), *optional])
        names = frame.collect_schema().names()
        if columns is None:
            return frame
        missing = [name for name in columns if name not in present]
        if missing:
            raise DataError(f"{path}: no column {', '.join(map(repr, missing))}; present: {', '.join(present)}; "
                            "mend the header, or the column names in prepare.source")
        return frame.select(*columns, *(name for name in optional if name in names))

    def lines(self, path: Path) -> pl.LazyFrame:
        """A text file's lines as one String column ``line``; empty lines are left out."""
        self._check(path)
        return scan_csv(self._text(path), path, _NO_SEPARATOR, ["line"], quoted=False)

    def _open(self, path: Path, wanted: list[str]) -> tuple[pl.LazyFrame, list[str]]:
        """The frame, and the names seen in the file (of JSONL: in its first lines; others may come later)."""
        if is_parquet(path):
            frame = pl.scan_parquet(path, glob=False)
            return frame, frame.collect_schema().names()
        text = self._text(path)
        if is_jsonl(path):
            seen = _json_keys(text, path)
            return pl.scan_ndjson(text, schema=dict.fromkeys(wanted or seen, pl.String)), seen
        frame = scan_csv(text, path, self._separator)
        return frame, frame.collect_schema().names()

    def _check(self, path: Path) -> None:
        check_readable(path, self._encoding)
        if path not in self.files:
            self.files.append(path)

    def _text(self, path: Path) -> Path:
        """The file itself, or its UTF-8 copy."""
        if self._encoding in ("utf-8", "utf-8-sig", "ascii"):
            return path
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="mentorec-utf8-")
        copy = Path(self._folder.name) / f"{self.files.index(path):05d}-{path.name}"
        if not copy.exists():
            _rewrite(path, self._encoding, copy)
        return copy


def scanned_files(keep: object) -> list[Path]:
    """The files behind raw tables, from what keeps them alive."""
    return keep.files if isinstance(keep, TableReader) else []


@contextmanager
def readable(files: Iterable[Path]) -> Iterator[None]:
    """Turn what polars says of a damaged JSONL or Parquet file into a DataError that names file, place and remedy."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as exc:
        faults = (fault for path in files if (fault := _fault(path)) is not None)
        names = ", ".join(map(str, files))
        raise DataError(next(faults, f"{names}: cannot be read: {' '.join(str(exc).split())[:200]}")) from exc


def _fault(path: Path) -> str | None:
    """What is wrong with one file, found by reading all of it; None where nothing is."""
    if is_parquet(path):
        try:
            for _ in pq.ParquetFile(path).iter_batches():
                continue
        except (pa.ArrowException, OSError) as exc:
            return f"{path}: cannot be read: {' '.join(str(exc).split())[:200]}; fetch the file again"
    if is_jsonl(path):
        return undecodable(path) or _bad_json_line(path)
    return None


def _rewrite(path: Path, encoding: str, copy: Path) -> None:
    decoder = codecs.getincrementaldecoder(encoding)()
    with path.open("rb") as source, copy.open("w", encoding="utf-8", newline="") as target:
        while True:
            start, chunk = source.tell(), source.read(_CHUNK_BYTES)
            pending = len(decoder.getstate()[0])
            try:
                target.write(decoder.decode(chunk, final=not chunk))
            except UnicodeError as exc:  # UTF-16 without a byte-order mark has no position
                at = start - pending + (exc.start if isinstance(exc, UnicodeDecodeError) else 0)
                raise DataError(f"{path}: byte {at:,} is not {encoding} ({exc}); set prepare.source.encoding to the "
                                "file's own") from exc
            if not chunk:
                return


def _json_keys(path: Path, original: Path) -> list[str]:
    keys: dict[str, None] = {}
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(itertools.islice(file, _PEEK_LINES), 1):
            if line.strip():
                keys.update(dict.fromkeys(_json_object(line, number, original)))
    return list(keys)


def _json_object(line: str, number: int, path: Path) -> dict[str, object]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as exc:
        raise DataError(f"{path}: line {number} is not JSON ({exc.msg} at character {exc.pos + 1}); "
                        "the file needs one object per line") from exc
    if not isinstance(value, dict):
        raise DataError(f"{path}: line {number} is a JSON {type(value).__name__}; the file needs one object per line")
    return value


def _bad_json_line(path: Path) -> str | None:
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                if line.strip():
                    json.loads(line)
            except json.JSONDecodeError as exc:
                return f"{path}: line {number} is not JSON ({exc.msg} at character {exc.pos + 1}); fetch the file again"
    return None
