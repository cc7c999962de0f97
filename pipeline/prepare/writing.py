"""The files of the `prepare` artifact, written in pieces of bounded size.

Legend: N interactions, M users, V items.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import DataError
from models.ragged import bounds, offsets_of
from pipeline.prepare.blocks import Interactions
from pipeline.prepare.definition import HISTORIES_FOLDER, INTERACTIONS_FILE, ITEMS_FILE, TRAIN_FILE, USERS_FILE
from pipeline.prepare.entities import text_maps
from pipeline.prepare.kept import KeptInteractions
from pipeline.prepare.raw import ATTRIBUTE, FIELD
from pipeline.prepare.splits import TRAIN_CODE, CaseRows, Split
from pipeline.store.arrow import text_bytes, write_arrow
from pipeline.store.columns import (
    ATTRIBUTES,
    CATEGORY,
    COUNT,
    FIELDS,
    HISTORY,
    ITEM_ID,
    ITEM_IDX,
    ITEMS,
    POSITION,
    REVIEW,
    REVIEWS,
    SIGNAL,
    SIGNALS,
    SPLIT,
    TARGET,
    TEST,
    TIMESTAMP,
    TIMESTAMPS,
    TITLE,
    TRAIN,
    USER_ID,
    USER_IDX,
    VALIDATION,
)
from pipeline.work.here import tables_of
from pipeline.work.progress import track

_GROUP_ROWS = 1 << 20
_TEXT_ROWS = 50_000
_TEXT_BYTES = 1 << 30
"""Of reviews in a row group: half of what an array of Arrow's strings holds, since readers join a few."""
_MOST_BYTES = (1 << 31) - (1 << 27)
"""Of one user's reviews, one row of the histories: what such an array holds, less what readers join to it."""
_PARTS = pa.array([TRAIN, VALIDATION, TEST])


def write_interactions(folder: Path, kept: KeptInteractions, split: Split) -> None:
    """``interactions.parquet``, one row group per million rows."""
    batches = (batch for place, block in kept.pieces() for batch in _interactions(kept, split, place, block))
    groups = _bounded(tables_of(batches, _GROUP_ROWS), REVIEW)
    _write_groups(folder / INTERACTIONS_FILE,
                  track(groups, "prepare: writing interactions", "rows", len(kept), lambda table: int(table.num_rows)))


def write_users(folder: Path, kept: KeptInteractions, split: Split, described: pl.DataFrame) -> None:
    """``users.parquet`` with the attributes of ``described``."""
    counts = kept.trained_users(split)
    _write_groups(folder / USERS_FILE, (
        pa.table({USER_IDX: pa.array(np.arange(s.start, s.stop)), USER_ID: _strings(kept.user_ids[s]),
                  COUNT: counts[s].astype(np.int32), ATTRIBUTES: text_maps(described[s], ATTRIBUTE)})
        for s in _slices(len(kept.users), _TEXT_ROWS)))


def write_items(folder: Path, kept: KeptInteractions, split: Split, described: pl.DataFrame) -> None:
    """``items.parquet`` with the texts of ``described``."""
    counts = kept.trained_items(split)[1:]
    _write_groups(folder / ITEMS_FILE, (
        pa.table({ITEM_IDX: pa.array(np.arange(s.start + 1, s.stop + 1, dtype=np.int32)),
                  ITEM_ID: _strings(kept.item_ids[s]), TITLE: _strings(described[TITLE][s]),
                  CATEGORY: _strings(described[CATEGORY][s]), FIELDS: text_maps(described[s], FIELD),
                  COUNT: counts[s].astype(np.int32)})
        for s in _slices(len(kept.item_ids), _TEXT_ROWS)))


def write_training(folder: Path, kept: KeptInteractions, split: Split, history_rows: int) -> None:
    """``train.arrow`` and the parts of ``histories/``, ``history_rows`` users each."""
    lengths = kept.trained_users(split)
    users = np.flatnonzero(lengths)
    offsets = offsets_of(lengths[users])
    values = np.zeros(int(offsets[-1]), np.int32)
    (folder / HISTORIES_FOLDER).mkdir()

    def batches() -> Iterator[pa.RecordBatch]:
        """Training histories, at most ``history_rows`` users of one block to a batch."""
        written = 0
        for place, block in kept.pieces():
            found = block.take(split.parts[place] == TRAIN_CODE)
            first, last = np.searchsorted(offsets, [written, written + len(found)])
            values[written:written + len(found)] = found.items
            inner = offsets[first:last + 1] - written
            bytes_M = np.diff(offsets_of(_review_bytes(found))[inner])
            _refuse_beyond(bytes_M, users[first:last], kept)
            for s in _pieces(bytes_M, history_rows):
                edges = inner[s.start:s.stop + 1]
                part = found.take(np.arange(edges[0], edges[-1]))
                columns = {ITEMS: pa.array(part.items), SIGNALS: _signals(part), TIMESTAMPS: _seconds(part)}
                if part.reviews is not None:
                    columns[REVIEWS] = _strings(part.reviews)
                starts = pa.array((edges - edges[0]).astype(np.int32))
                yield pa.record_batch({USER_IDX: pa.array(users[first:last][s])} | {
                    name: pa.ListArray.from_arrays(starts, column) for name, column in columns.items()})
            written += len(found)

    parts = track(tables_of(batches(), history_rows), "prepare: writing histories", "users", len(users),
                  lambda table: int(table.num_rows))
    for number, part in enumerate(parts):
        _write_groups(folder / HISTORIES_FOLDER / f"part-{number:05d}.parquet", _bounded([part], REVIEWS))
    write_arrow(folder / TRAIN_FILE, pa.table({USER_IDX: pa.array(users), ITEMS: _lists(offsets, values)}))


def write_cases(path: Path, kept: KeptInteractions, cases: CaseRows) -> None:
    """``validation.arrow`` or ``test.arrow``: whole histories and their targets."""
    starts = kept.users.starts[cases.users]
    edges = np.zeros(len(kept) + 1, np.int8)
    edges[starts] += 1
    edges[cases.targets] -= 1
    inside = np.cumsum(edges[:-1], dtype=np.int8).astype(bool)
    offsets = offsets_of(cases.targets - starts)
    values, written = np.zeros(int(offsets[-1]), np.int32), 0
    for place, block in kept.pieces():
        found = block.items[inside[place]]
        values[written:written + len(found)] = found
        written += len(found)
    write_arrow(path, pa.table({USER_IDX: pa.array(cases.users), HISTORY: _lists(offsets, values),
                                TARGET: pa.array(kept.items_of(cases.targets))}))


def _interactions(kept: KeptInteractions, split: Split, place: slice, block: Interactions
                  ) -> Iterator[pa.RecordBatch]:
    bytes_N = _review_bytes(block)
    _refuse_beyond(bytes_N, block.users, kept)
    for s in _pieces(bytes_N, _GROUP_ROWS):
        found = block.take(np.arange(s.start, s.stop))
        users, rows = found.users.astype(np.int64), np.arange(place.start + s.start, place.start + s.stop)
        columns = {USER_IDX: pa.array(users), ITEM_IDX: pa.array(found.items), TIMESTAMP: _seconds(found),
                   SIGNAL: _signals(found)}
        if found.reviews is not None:
            columns[REVIEW] = _strings(found.reviews)
        columns[POSITION] = pa.array((rows - kept.users.starts[users]).astype(np.int32))
        codes = split.parts[rows[0]:rows[-1] + 1].astype(np.int8)
        columns[SPLIT] = pa.DictionaryArray.from_arrays(pa.array(codes), _PARTS)
        yield pa.record_batch(columns)


def _review_bytes(found: Interactions) -> np.ndarray:
    """int64 [N]."""
    if found.reviews is None:
        return np.zeros(len(found), np.int64)
    return found.reviews.str.len_bytes().fill_null(0).to_numpy().astype(np.int64)


def _refuse_beyond(bytes_N: np.ndarray, users_N: np.ndarray, kept: KeptInteractions) -> None:
    """Raise a DataError that names a user of more text than a row group can hold."""
    if bytes_N.max(initial=0) > _MOST_BYTES:
        most = int(bytes_N.argmax())
        raise DataError(f"prepare: user {kept.user_ids[int(users_N[most])]!r} has {bytes_N[most]:,} bytes of reviews; "
                        f"legal: {_MOST_BYTES:,} at most; take the user out of the raw files, or read no reviews: "
                        "prepare.source.columns.review=null, of Amazon's files review_text=false")


def _bounded(tables: Iterable[pa.Table], text: str) -> Iterator[pa.Table]:
    """The tables, in pieces where a column of text, if they have it, holds more than ``_TEXT_BYTES``."""
    for table in tables:
        bytes_N = text_bytes(table[text]) if text in table.column_names else np.zeros(len(table), np.int64)
        yield from (table.slice(s.start, s.stop - s.start) for s in _pieces(bytes_N, len(table)))


def _write_groups(path: Path, groups: Iterator[pa.Table]) -> None:
    first = next(groups)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first.combine_chunks())
        for group in groups:
            writer.write_table(group.combine_chunks())


def _seconds(found: Interactions) -> pa.Array:
    return pa.nulls(len(found), pa.int64()) if found.seconds is None else pa.array(found.seconds)


def _signals(found: Interactions) -> pa.Array:
    if found.signals is None:
        return pa.nulls(len(found), pa.float32())
    return pa.array(found.signals, from_pandas=True)


def _lists(offsets: np.ndarray, values: np.ndarray) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))


def _strings(values: pl.Series) -> pa.Array:
    return values.cast(pl.String).to_arrow().cast(pa.string())


def _slices(total: int, step: int) -> Iterator[slice]:
    """0…total in pieces of at most ``step``."""
    return (slice(start, min(start + step, total)) for start in range(0, total, step))


def _pieces(bytes_N: np.ndarray, rows: int) -> Iterator[slice]:
    """0…N in pieces of at most so many rows and ``_TEXT_BYTES``; a row of more is a piece of its own."""
    for s in _slices(len(bytes_N), rows):
        starts = (s.start + bounds(bytes_N[s], _TEXT_BYTES)).tolist()
        yield from map(slice, starts, [*starts[1:], s.stop])
