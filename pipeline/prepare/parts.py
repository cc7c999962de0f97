"""The raw interactions read in consecutive parts, each by itself: bad rows are found, ids become numbers.

Legend: N rows of a batch.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from configs.errors import DataError
from pipeline.prepare.bad_rows import BadRows, is_missing, problems
from pipeline.prepare.blocks import Place
from pipeline.prepare.raw import RAW_ROW, TIME_FRACTION, UNTIMED, RawPart, RawTables
from pipeline.prepare.scratch import Piece, Scratch, Spill
from pipeline.prepare.tables import readable, scanned_files
from pipeline.prepare.time_form import TimeSizes
from pipeline.store.columns import ITEM_ID, SIGNAL, TIMESTAMP, USER_ID
from pipeline.work.progress import track

_PROBLEM: Final = "problem"
_PER_WORKER: Final = 4
"""Parts of each worker, where there are so many files: some take longer than others."""


@dataclass(frozen=True)
class Part:
    """Consecutive raw rows as they stream by."""

    pieces: list[Piece]
    """Sound rows: RAW_ROW from 0 in each part, USER_ID and ITEM_ID as numbers of the id lists, TIMESTAMP, and what else
    there is."""
    bad: BadRows
    user_ids: pl.Series
    item_ids: pl.Series
    num_raw: int
    signals: bool
    """Whether any row has a signal."""
    fractions: bool
    """Whether any time has a fraction of its unit."""
    times: TimeSizes
    """Of the known times; of nothing where their size does not matter."""


@dataclass(frozen=True)
class ReadSettings:
    """How parts are read."""

    streaming: bool
    timeless: bool
    sizes: bool
    """Whether the sizes of times matter."""
    rows_at_once: int
    in_memory: bool
    """Whether few rows stay in memory; else all are in files."""
    files: tuple[Path, ...]
    """For messages."""


def read_parts(raw: RawTables, place: Place, streaming: bool) -> Iterator[Part]:
    """The parts in their order: one in this process, or several side by side where there are workers and files.

    Raises:
        DataError: a damaged file, or one that a node does not have.
    """
    settings = ReadSettings(streaming, raw.timeless, raw.time_unit == "auto", place.rows_at_once,
                            not place.workers.number, tuple(scanned_files(raw.keep)))
    parts = raw.parts() if place.workers.number and raw.parts is not None else []
    if len(parts) < 2:
        yield read_part(_checked(raw.interactions, raw), (), settings, place.scratch)
        return
    groups = grouped(parts, place.workers.number * _PER_WORKER)
    calls = ((_checked(pl.concat([part.rows for part in group], how="diagonal").with_row_index(RAW_ROW), raw),
              [(part.path, part.file_size) for part in group], settings, place.scratch) for group in groups)
    yield from track(place.workers.run(read_part, calls), "prepare: reading", "parts", len(groups))


def grouped(parts: Sequence[RawPart], most: int) -> list[list[RawPart]]:
    """Consecutive parts together, in at most so many groups of about one size."""
    each = max(1, -(-sum(part.size for part in parts) // most))
    groups: list[list[RawPart]] = [[]]
    held = 0
    for part in parts:
        if groups[-1] and held + part.size // 2 >= each * len(groups):
            groups.append([])
        groups[-1].append(part)
        held += part.size
    return groups


def read_part(frame: pl.LazyFrame, expected: Sequence[tuple[Path, int]], settings: ReadSettings, scratch: Scratch
              ) -> Part:
    """Stream rows by, name the bad ones, and keep the sound ones compactly: about 25 bytes each, a review its own more.

    Args:
        frame: of ``RawTables.interactions``, with the number of each row's problem.
        expected: files and their sizes where the work was shared out.

    Raises:
        DataError: a damaged file, or one that is not here.
    """
    _require(expected)
    kinds = {name: pl.Categorical(pl.Categories.random()) for name in (USER_ID, ITEM_ID)}
    anchor = pl.DataFrame([pl.Series(name, [], dtype=kind) for name, kind in kinds.items()])
    pieces, bad, times = Spill(scratch, settings.rows_at_once), list[BadRows](), list[TimeSizes]()
    num_raw, signals, fractions = 0, False, False
    numbered = frame.with_columns(pl.col(name).cast(kind) for name, kind in kinds.items())
    for batch in _batches(numbered, settings):
        num_raw += batch.height
        signals |= batch[SIGNAL].null_count() < batch.height
        found = batch.drop_in_place(_PROBLEM)
        is_bad = found != 0
        if is_bad.any():
            bad.append(BadRows.of(batch[RAW_ROW].filter(is_bad), found.filter(is_bad)))
            batch = batch.filter(~is_bad)
        if TIME_FRACTION in batch.columns:
            fractions |= bool((batch[TIME_FRACTION] > 0).any())
        if settings.timeless:
            batch = batch.drop(TIMESTAMP)
        else:
            times_N = batch[TIMESTAMP].to_numpy()
            times.append(TimeSizes.of(times_N[times_N != UNTIMED], settings.sizes))
        pieces.append(batch.with_columns(
            pl.col(name).to_physical().cast(pl.Int32) for name in kinds).with_columns(
            pl.col(SIGNAL).fill_null(float("nan"))))
    if settings.in_memory:
        pieces.close()
    else:
        pieces.flush()
    ids = {name: kind.categories.to_series() for name, kind in kinds.items()}
    del anchor  # categories live as long as a column that has them
    return Part(pieces.pieces, BadRows.joined((0, rows) for rows in bad), ids[USER_ID], ids[ITEM_ID], num_raw, signals,
                fractions, TimeSizes.joined(times))


def _checked(rows: pl.LazyFrame, raw: RawTables) -> pl.LazyFrame:
    """Rows with the number of their problem; missing ids are null."""
    return rows.with_columns(problems(raw).alias(_PROBLEM)).with_columns(
        pl.when(~is_missing(name, raw)).then(pl.col(name)).alias(name) for name in (USER_ID, ITEM_ID))


def _require(expected: Sequence[tuple[Path, int]]) -> None:
    for path, size in expected:
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            what = "is not there" if found is None else f"has {found:,} bytes and {size:,} where the command was called"
            raise DataError(f"{path}: on node {socket.gethostname()} it {what}; prepare's tasks read the raw files at "
                            "their paths: put them on a disk that all nodes mount, or set prepare.execution.workers=0")


def _batches(frame: pl.LazyFrame, settings: ReadSettings) -> Iterator[pl.DataFrame]:
    """The rows as they are read; what cannot be read is a DataError, what the caller meets between them is not."""
    with readable(settings.files):
        batches = frame.collect_batches(engine="streaming" if settings.streaming else "in-memory", lazy=True)
    while True:
        with readable(settings.files):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch
