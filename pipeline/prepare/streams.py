"""Packed text in any encoding as a stream of UTF-8, its faults told by their place. Polars-free."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

import pyarrow as pa

from configs.errors import DataError

Container = Literal["gzip", "bzip2", "zstd", "zip"]
HEAD_BYTES: Final = 4096
UNIT_SEPARATOR: Final = "\x1f"
"""Stands in no text: takes the place of a separator of several characters."""
_CHUNK_BYTES: Final = 1 << 22


@dataclass(frozen=True)
class Packed:
    """What a file is wrapped in."""

    container: Container | None = None
    member: str | None = None
    """The file inside a zip archive."""


class _Unpacked(io.RawIOBase):
    """The bytes inside a container, whose damage is a DataError."""

    def __init__(self, path: Path, packed: Packed) -> None:
        self._path, self._packed = path, packed
        try:
            self._file = path.open("rb")
            self._source = _source(self._file, packed)
        except (OSError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError, KeyError) as exc:
            raise self._damaged() from exc

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._source.read(len(buffer))
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile, pa.ArrowException, ValueError) as exc:
            raise self._damaged() from exc
        buffer[:len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            for opened in ("_source", "_file"):
                if hasattr(self, opened):
                    getattr(self, opened).close()
        super().close()

    @property
    def place(self) -> int:
        """Bytes of the file, as it lies on the disk, that have been read."""
        return self._file.tell()

    def _damaged(self) -> DataError:
        if self._packed.container is None:
            return DataError(f"{self._path}: cannot be read; check the path, its permissions and the disk")
        return DataError(f"{self._path}: damaged: its {self._packed.container} content is cut off or changed; fetch "
                         "the file again")


def open_packed(path: Path, packed: Packed) -> BinaryIO:
    """The bytes inside the container; those of the file where there is none.

    Raises:
        DataError: the container is damaged; now or while reading.
    """
    return io.BufferedReader(_Unpacked(path, packed), HEAD_BYTES)


def _source(file: BinaryIO, packed: Packed) -> BinaryIO:
    match packed.container:
        case None:
            return file
        case "gzip":
            return cast(BinaryIO, gzip.open(file, "rb"))
        case "bzip2":
            return cast(BinaryIO, bz2.open(file, "rb"))
        case "zstd":
            return cast(BinaryIO, pa.CompressedInputStream(file, "zstd"))
        case "zip":
            return cast(BinaryIO, zipfile.ZipFile(file).open(cast(str, packed.member)))


class _Utf8(io.RawIOBase):
    """Text of one encoding as UTF-8, without a byte-order mark; ``separator`` becomes ``UNIT_SEPARATOR``."""

    def __init__(self, path: Path, packed: Packed, encoding: str, separator: str) -> None:
        self._path, self._encoding, self._separator = path, encoding, separator
        self._unpacked = _Unpacked(path, packed)
        self._source = io.BufferedReader(self._unpacked, HEAD_BYTES)
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._offset, self._ready, self._held, self._begun, self._ended = 0, b"", "", False, False
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._ended:
            self._ready = self._next().encode("utf-8", "replace")
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        self._given += size
        return size

    def close(self) -> None:
        self._source.close()
        super().close()

    def place_of(self, text: int) -> int:
        """As of :class:`Utf8File`."""
        return round(self._unpacked.place * min(1.0, text / max(self._given, 1)))

    def _next(self) -> str:
        chunk = self._source.read(_CHUNK_BYTES)
        pending = len(self._decoder.getstate()[0])
        self._ended = not chunk
        try:
            text = self._decoder.decode(chunk, final=self._ended)
        except UnicodeError as exc:  # UTF-16 without a byte-order mark has no position
            raise self._undecodable(exc, self._offset - pending) from exc
        self._offset += len(chunk)
        if text and not self._begun:
            text, self._begun = text.removeprefix("\ufeff"), True
        return self._separated(text) if len(self._separator) > 1 else text

    def _separated(self, text: str) -> str:
        """The text with single-character separators; what may be the start of a separator waits for the next chunk."""
        text = (self._held + text).replace(self._separator, UNIT_SEPARATOR)
        starts = (self._separator[:size] for size in range(len(self._separator) - 1, 0, -1))
        self._held = "" if self._ended else next((start for start in starts if text.endswith(start)), "")
        return text.removesuffix(self._held)

    def _undecodable(self, exc: UnicodeError, start: int) -> DataError:
        if not isinstance(exc, UnicodeDecodeError):
            return DataError(f"{self._path}: byte {start:,} is not {self._encoding} ({exc}); set "
                             "prepare.source.encoding to the file's own")
        at, bad = start + exc.start, exc.object[exc.start]
        if self._encoding == "utf-8":
            return DataError(f"{self._path}: byte {at:,} (0x{bad:02x}) is not UTF-8; set prepare.source.encoding (for "
                             "example latin-1), or save the file as UTF-8")
        return DataError(f"{self._path}: byte {at:,} is not {self._encoding} (0x{bad:02x}: {exc.reason}); set "
                         "prepare.source.encoding to the file's own")


class Utf8File(io.BufferedReader):
    """A text file as UTF-8; a separator of several characters becomes ``UNIT_SEPARATOR``.

    Raises:
        DataError: while reading: the container is damaged, or the text is not in the encoding (byte offsets count in
            the unpacked text).
    """

    def __init__(self, path: Path, packed: Packed, encoding: str, separator: str = "") -> None:
        self._text = _Utf8(path, packed, encoding, separator)
        super().__init__(self._text, 1 << 16)

    def place_of(self, text: int) -> int:
        """Bytes of the file, as it lies on the disk, that so many bytes of text come from, as far as that is known."""
        return self._text.place_of(text)


def line_blocks(stream: BinaryIO, path: Path, size: int) -> Iterator[bytes]:
    """Whole lines, about ``size`` bytes at a time.

    Raises:
        DataError: a line is longer than eight blocks.
    """
    held = b""
    while chunk := stream.read(size):
        held += chunk
        end = held.rfind(b"\n") + 1
        if end:
            yield held[:end]
            held = held[end:]
        elif len(held) > 8 * size:
            raise DataError(f"{path}: a line is longer than {8 * size >> 20} MiB; does the file lack line ends?")
    if held:
        yield held


def is_utf8(path: Path, packed: Packed) -> bool:
    """Whether the whole text is UTF-8."""
    try:
        with Utf8File(path, packed, "utf-8") as stream:
            while stream.read(_CHUNK_BYTES):
                continue
    except DataError:
        return False
    return True
