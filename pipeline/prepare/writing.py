"""The files of the `prepare` artifact, written in pieces of bounded size.

Legend: N interactions, M users, V items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from models.ragged import offsets_of
from pipeline.prepare.definition import HISTORIES_FOLDER, INTERACTIONS_FILE, ITEMS_FILE, TRAIN_FILE, USERS_FILE
from pipeline.prepare.entities import text_maps
from pipeline.prepare.ordering import Users
from pipeline.prepare.raw import ATTRIBUTE, FIELD
from pipeline.prepare.splits import TRAIN_CODE, CaseRows, Split
from pipeline.store.arrow import write_arrow
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
from pipeline.work.progress import track

_GROUP_ROWS = 1 << 20
_TEXT_ROWS = 50_000
_PARTS = pa.array([TRAIN, VALIDATION, TEST])


@dataclass(frozen=True)
class KeptInteractions:
    """The interactions that stay, sorted by user and time, with their final indices."""

    users: Users
    user_N: np.ndarray
    """int32 [N], 0…M-1."""
    item_N: np.ndarray
    """int32 [N], 1…V."""
    second_N: np.ndarray | None
    """int64 [N]; None: timeless."""
    signal_N: np.ndarray | None
    """float32 [N], NaN where there is none."""
    reviews: pl.Series | None
    user_ids: pl.Series
    """String [M]."""
    item_ids: pl.Series
    """String [V]; entry i is item i + 1."""

    def __len__(self) -> int:
        return len(self.item_N)


def write_interactions(folder: Path, kept: KeptInteractions, split: Split) -> None:
    """``interactions.parquet``, one row group per million rows."""
    _write_groups(folder / INTERACTIONS_FILE, _interaction_groups(kept, split))


def write_users(folder: Path, kept: KeptInteractions, split: Split, described: pl.DataFrame) -> None:
    """``users.parquet`` with the attributes of ``described``."""
    counts = np.bincount(kept.user_N[split.parts == TRAIN_CODE], minlength=len(kept.users))
    _write_groups(folder / USERS_FILE, (
        pa.table({USER_IDX: pa.array(np.arange(s.start, s.stop)), USER_ID: _strings(kept.user_ids[s]),
                  COUNT: counts[s].astype(np.int32), ATTRIBUTES: text_maps(described[s], ATTRIBUTE)})
        for s in _slices(len(kept.users), _TEXT_ROWS)))


def write_items(folder: Path, kept: KeptInteractions, split: Split, described: pl.DataFrame) -> None:
    """``items.parquet`` with the texts of ``described``."""
    counts = np.bincount(kept.item_N[split.parts == TRAIN_CODE], minlength=len(kept.item_ids) + 1)[1:]
    _write_groups(folder / ITEMS_FILE, (
        pa.table({ITEM_IDX: pa.array(np.arange(s.start + 1, s.stop + 1, dtype=np.int32)),
                  ITEM_ID: _strings(kept.item_ids[s]), TITLE: _strings(described[TITLE][s]),
                  CATEGORY: _strings(described[CATEGORY][s]), FIELDS: text_maps(described[s], FIELD),
                  COUNT: counts[s].astype(np.int32)})
        for s in _slices(len(kept.item_ids), _TEXT_ROWS)))


def write_training(folder: Path, kept: KeptInteractions, split: Split, history_rows: int) -> None:
    """``train.arrow`` and the parts of ``histories/``, ``history_rows`` users each."""
    mask = split.parts == TRAIN_CODE
    lengths = np.bincount(kept.user_N[mask], minlength=len(kept.users))
    users = np.flatnonzero(lengths)
    values = kept.item_N[mask]
    offsets = offsets_of(lengths[users])
    write_arrow(folder / TRAIN_FILE, pa.table({USER_IDX: pa.array(users), ITEMS: _lists(offsets, values)}))
    (folder / HISTORIES_FOLDER).mkdir()
    rows = np.flatnonzero(mask)
    parts = track(_slices(len(users), history_rows), "prepare: writing histories", "users", len(users), _length)
    for number, s in enumerate(parts):
        start, stop = offsets[s.start], offsets[s.stop]
        part = rows[start:stop]
        inner = pa.array((offsets[s.start:s.stop + 1] - start).astype(np.int32))
        columns = {USER_IDX: pa.array(users[s])} | {
            name: pa.ListArray.from_arrays(inner, column) for name, column in {
                ITEMS: pa.array(values[start:stop]), SIGNALS: _signals(kept, part), TIMESTAMPS: _seconds(kept, part),
            }.items()}
        if kept.reviews is not None:
            columns[REVIEWS] = pa.ListArray.from_arrays(inner, _strings(kept.reviews[part]))
        pq.write_table(pa.table(columns), folder / HISTORIES_FOLDER / f"part-{number:05d}.parquet")


def write_cases(path: Path, kept: KeptInteractions, cases: CaseRows) -> None:
    """``validation.arrow`` or ``test.arrow``: whole histories and their targets."""
    starts = kept.users.starts[cases.users]
    edges = np.zeros(len(kept) + 1, np.int8)
    edges[starts] += 1
    edges[cases.targets] -= 1
    inside = np.cumsum(edges[:-1], dtype=np.int8).astype(bool)
    offsets = offsets_of(cases.targets - starts)
    write_arrow(path, pa.table({USER_IDX: pa.array(cases.users), HISTORY: _lists(offsets, kept.item_N[inside]),
                                TARGET: pa.array(kept.item_N[cases.targets])}))


def _interaction_groups(kept: KeptInteractions, split: Split) -> Iterator[pa.Table]:
    for s in track(_slices(len(kept), _GROUP_ROWS), "prepare: writing interactions", "rows", len(kept), _length):
        users, rows = kept.user_N[s].astype(np.int64), np.arange(s.start, s.stop)
        columns = {USER_IDX: pa.array(users), ITEM_IDX: pa.array(kept.item_N[s]), TIMESTAMP: _seconds(kept, s),
                   SIGNAL: _signals(kept, s)}
        if kept.reviews is not None:
            columns[REVIEW] = _strings(kept.reviews[s])
        columns[POSITION] = pa.array((rows - kept.users.starts[users]).astype(np.int32))
        columns[SPLIT] = pa.DictionaryArray.from_arrays(pa.array(split.parts[s].astype(np.int8)), _PARTS)
        yield pa.table(columns)


def _write_groups(path: Path, groups: Iterator[pa.Table]) -> None:
    first = next(groups)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for group in groups:
            writer.write_table(group)


def _seconds(kept: KeptInteractions, rows: slice | np.ndarray) -> pa.Array:
    if kept.second_N is None:
        return pa.nulls(len(kept.item_N[rows]), pa.int64())
    return pa.array(kept.second_N[rows])


def _signals(kept: KeptInteractions, rows: slice | np.ndarray) -> pa.Array:
    if kept.signal_N is None:
        return pa.nulls(len(kept.item_N[rows]), pa.float32())
    return pa.array(kept.signal_N[rows], from_pandas=True)


def _lists(offsets: np.ndarray, values: np.ndarray) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))


def _strings(values: pl.Series) -> pa.Array:
    return values.cast(pl.String).to_arrow().cast(pa.string())


def _length(piece: slice) -> int:
    return int(piece.stop - piece.start)


def _slices(total: int, step: int) -> Iterator[slice]:
    """0…total in pieces of at most ``step``."""
    return (slice(start, min(start + step, total)) for start in range(0, total, step))
