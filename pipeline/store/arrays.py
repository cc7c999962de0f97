"""Arrow IPC files of `prepare` as memory-mapped sequences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from models.sequences import Cases, Sequences
from pipeline.store.arrow import numbers, one_array, open_arrow
from pipeline.store.columns import HISTORY, ITEMS, TARGET, USER_IDX


def sequences(column: pa.ChunkedArray) -> Sequences:
    """A large_list<int32> column as flat array and offsets, zero-copy for one chunk."""
    if column.num_chunks == 0:
        return Sequences(np.zeros(0, np.int32), np.zeros(1, np.int64))
    array = one_array(column)
    return Sequences(numbers(array.values), numbers(array.offsets))


def training_sequences(path: Path) -> tuple[np.ndarray, Sequences]:
    """``train.arrow`` → user indices int64 [N] and their training sequences."""
    table = open_arrow(path)
    return numbers(table[USER_IDX]), sequences(table[ITEMS])


def cases(path: Path) -> Cases:
    """``validation.arrow`` or ``test.arrow`` → ranking tasks."""
    table = open_arrow(path)
    return Cases(numbers(table[USER_IDX]), sequences(table[HISTORY]), numbers(table[TARGET]))
