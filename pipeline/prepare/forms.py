"""What form a raw file has: told by its first bytes, its name comes second. Polars-free."""

from __future__ import annotations

import codecs
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

from configs.errors import DataError
from pipeline.prepare.streams import HEAD_BYTES, Container, Packed, open_packed

Layout = Literal["parquet", "json lines", "delimited"]
LEGAL_FORMS: Final = (
    "CSV and other delimited text, JSON lines, Parquet; text may be packed with gzip, bzip2, zstd or zip")

_PARQUET_NAMES: Final = (".parquet", ".parq", ".pq")
_JSON_NAMES: Final = (".jsonl", ".ndjson", ".json")
_PARQUET_MARK: Final = b"PAR1"
_FOREIGN: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"ARROW1", "an Arrow or Feather file"), (0, b"FEA1", "a Feather file"), (0, b"Obj\x01", "an Avro file"),
    (0, b"PARE", "an encrypted Parquet file"), (0, b"SQLite format 3\0", "an SQLite database"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"), (0, b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (0, b"\x93NUMPY", "a NumPy array"), (0, b"%PDF-", "a PDF"), (0, b"\xfd7zXZ\0", "an xz archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"), (0, b"Rar!\x1a", "a RAR archive"), (257, b"ustar", "a tar archive"),
    (0, b"\x04\x22\x4d\x18", "an lz4 archive"), (0, b"PK\x05\x06", "an empty zip archive"),
)
"""Place, mark, words."""
_OFFICE: Final = {"xl/": "an Excel workbook", "word/": "a Word document", "content.xml": "an OpenDocument file"}
"""How the names inside begin → what the zip archive is."""
_DOCUMENT = re.compile(r"\s*\[\s*[\[{]|\s*\{\s*$")
_OBJECT = re.compile(r'\s*\{\s*"')


@dataclass(frozen=True)
class Form:
    """How a file is read."""

    layout: Layout
    packed: Packed


def form_of(path: Path, encoding: str) -> Form:
    """Find the form, and the faults that a look at the first and last bytes shows.

    Raises:
        DataError: zero bytes, a Parquet file that is cut off, a form that is not read, UTF-16 read as something else.
    """
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path}: the file has zero bytes; fetch it again")
    with path.open("rb") as file:
        head, tail = file.read(HEAD_BYTES), _tail(file, size)
    named_parquet = path.name.lower().endswith(_PARQUET_NAMES)
    packed = Packed(_container(head), _member(path) if head.startswith(b"PK\x03\x04") else None)
    if packed.container is None and (head.startswith(_PARQUET_MARK) or named_parquet):
        _refuse_foreign(path, head, tail)
        return Form(_whole_parquet(path, head, tail, size), packed)
    if packed.container is not None:
        with open_packed(path, packed) as file:
            head = tail = file.read(HEAD_BYTES)
        if not head:
            raise DataError(f"{path}: holds no text, its {packed.container} content has zero bytes; fetch it again")
        if head.startswith(_PARQUET_MARK):
            raise DataError(f"{path}: a Parquet file packed with {packed.container}; unpack it, Parquet packs itself")
    _refuse_foreign(path, head, tail)
    _refuse_wide(path, head, encoding)
    return Form(_text_layout(path, head, encoding), packed)


def _tail(file: BinaryIO, size: int) -> bytes:
    file.seek(max(0, size - 4))
    return file.read(4)


def _container(head: bytes) -> Container | None:
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", head):
        return "bzip2"
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd"
    return "zip" if head.startswith(b"PK\x03\x04") else None


def _member(path: Path) -> str:
    """The one file of a zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as exc:
        raise DataError(f"{path}: a damaged zip archive; fetch it again") from exc
    for start, words in _OFFICE.items():
        if any(name.startswith(start) for name in names):
            raise DataError(f"{path}: {words}, which is not read; legal: {LEGAL_FORMS}; save the sheet as CSV")
    names = [name for name in names if not name.rsplit("/", 1)[-1].startswith(".") and not name.startswith("__MACOSX/")]
    if len(names) != 1:
        raise DataError(f"{path}: a zip archive of {len(names):,} files; legal: an archive of one text file; unpack it "
                        "and name the files")
    return names[0]


def _whole_parquet(path: Path, head: bytes, tail: bytes, size: int) -> Layout:
    if head[:4] != _PARQUET_MARK or tail != _PARQUET_MARK or size < 12:
        cut = head[:4] == _PARQUET_MARK
        raise DataError(f"{path}: not a whole Parquet file (its {'end' if cut else 'start'} is not the mark PAR1, "
                        f"{size:,} bytes); it was cut off or is of another form: fetch it again, or name it as what it "
                        "is")
    return "parquet"


def _refuse_foreign(path: Path, head: bytes, tail: bytes) -> None:
    found = next((words for place, mark, words in _FOREIGN if head[place:].startswith(mark)), None)
    if head.startswith(b"\x80") and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        found = "a Python pickle"
    if head.startswith(b"ORC") and (tail.endswith(b"ORC") or b"\0" in head):
        found = "an ORC file"
    if found:
        raise DataError(f"{path}: {found}, which is not read; legal: {LEGAL_FORMS}; save it as one of these")


def _refuse_wide(path: Path, head: bytes, encoding: str) -> None:
    if encoding.startswith(("utf-16", "utf-32")):
        return
    zeros = head.count(b"\0")
    if head[:2] not in (b"\xff\xfe", b"\xfe\xff") and 0 < zeros < len(head) / 4:
        raise DataError(f"{path}: byte {head.index(0):,} is zero, which stands in no text: the file is damaged or of a "
                        f"form that is not read; legal: {LEGAL_FORMS}")
    if zeros or head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path}: looks like UTF-16 (first bytes {head[:4].hex(' ')}), read as {encoding}; "
                        "set prepare.source.encoding=utf-16, or save the file as UTF-8")


def _text_layout(path: Path, head: bytes, encoding: str) -> Layout:
    try:
        text = codecs.getincrementaldecoder(encoding)("ignore").decode(head).lstrip("\ufeff")
    except UnicodeError:  # UTF-16 without a byte-order mark: reading tells
        text = ""
    first = next((line for line in text.split("\n") if line.strip()), "")
    named_json = any(suffix.lower() in _JSON_NAMES for suffix in path.suffixes)
    if re.match(_DOCUMENT, first) or (named_json and first.strip() in ("[", "{")):
        raise DataError(f"{path}: this file is one JSON document; legal: JSON lines, one object per line; convert an "
                        f"array with: jq -c '.[]' {path.name} > {path.stem}.jsonl")
    return "json lines" if named_json or re.match(_OBJECT, first) else "delimited"
