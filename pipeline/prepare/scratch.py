"""Tables that wait in files while interactions are prepared: written once, read by whoever works on them."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs

from cluster.faults import STORAGE, storage_errors
from cluster.small_files import read_again
from cluster.storage import Storage
from configs.errors import StorageError
from pipeline.store.artifacts import SCRATCH, ArtifactDir


@dataclass(frozen=True)
class Segment:
    """A table in a part of a file: a stream of Arrow's."""

    file: str
    """Its path below the scratch folder."""
    start: int
    """The first byte."""
    size: int
    """In bytes."""
    rows: int


Piece = pl.DataFrame | Segment
"""A table in memory, or in a file."""


@dataclass(frozen=True)
class Scratch:
    """The folder of the files. Picklable: tasks have it too, where it is on a storage that all nodes reach."""

    storage: Storage
    setting: str
    """What a person sets to have the folder elsewhere."""

    def write(self, tables: Iterable[pl.DataFrame]) -> list[Segment]:
        """Tables into one new file. No other call writes under its name, so a task that is made again, even beside
        a first one that was only thought to be dead, changes nothing that was read."""
        name = f"{uuid.uuid4().hex}.arrow"
        path, segments = self.storage.path(name), []
        with storage_errors(path, self.setting), self.storage.filesystem.open_output_stream(path) as stream:
            for table in tables:
                start = stream.tell()
                table.write_ipc_stream(stream)
                segments.append(Segment(name, start, stream.tell() - start, table.height))
        return segments

    def read(self, pieces: Sequence[Piece]) -> pl.DataFrame:
        """Tables, at least one, of the same columns, one after the other."""
        return pl.concat([piece if isinstance(piece, pl.DataFrame) else self._read(piece) for piece in pieces])

    def delete(self, pieces: Iterable[Piece]) -> None:
        """Remove the files that hold these; other tables in them go too."""
        for name in dict.fromkeys(piece.file for piece in pieces if isinstance(piece, Segment)):
            self.storage.delete(name)

    def _read(self, segment: Segment) -> pl.DataFrame:
        """Copied into memory, as a stream is, and not mapped."""
        path = self.storage.path(segment.file)
        with storage_errors(path, self.setting), self.storage.filesystem.open_input_file(path) as file:
            data = read_again(lambda: file.read_at(segment.size, segment.start))
        with pa.ipc.open_stream(pa.BufferReader(data)) as stream:
            return cast(pl.DataFrame, pl.from_arrow(stream.read_all()))


@dataclass
class Spill:
    """Tables in the order in which they come: in memory while they are few, else in files."""

    scratch: Scratch
    rows_at_once: int
    """More rows are written."""
    pieces: list[Piece] = field(default_factory=list)
    _held: list[pl.DataFrame] = field(default_factory=list)
    _held_rows: int = 0

    def append(self, table: pl.DataFrame) -> None:
        """One more table."""
        self._held.append(table)
        self._held_rows += table.height
        if self._held_rows > self.rows_at_once:
            self.flush()

    def flush(self) -> None:
        """Write what is in memory."""
        if self._held_rows:
            self.pieces += self.scratch.write([pl.concat(self._held)])
        self._held, self._held_rows = [], 0

    def close(self) -> None:
        """No more tables come: what is in memory are pieces too."""
        self.pieces += self._held
        self._held, self._held_rows = [], 0


@contextmanager
def own_scratch(beside: Path, setting: str) -> Iterator[Scratch]:
    """A folder of this process below another one."""
    with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}-", dir=beside) as folder:
        yield Scratch(Storage(pafs.LocalFileSystem(), folder), setting)


@contextmanager
def shared_scratch(out: ArtifactDir) -> Iterator[Scratch]:
    """A folder of the attempt, which all nodes reach. What a process that is killed leaves there goes when the next one
    begins, or by `mentorec clean`."""
    storage, folder = out.storage, out.relative(SCRATCH)
    storage.make_dir(folder)
    try:
        yield Scratch(replace(storage, base=storage.path(folder)), STORAGE)
    except BaseException:
        with suppress(StorageError, OSError):  # the first error is the one to tell
            storage.delete(folder)
        raise
    storage.delete(folder)
