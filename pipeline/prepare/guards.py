"""Guards that fail the run, on the files as they were written: no leakage, no duplicate id, no item 0.

They read back what later stages read, so that a defect in the writing cannot hide itself.

Legend: N interactions, M users, V items, C cases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import DataError, LeakageError
from pipeline.prepare.config import LeaveOneOutSplit, SessionsSplit, SplitConfig
from pipeline.prepare.definition import (
    HISTORIES_FOLDER,
    INTERACTIONS_FILE,
    ITEMS_FILE,
    TEST_FILE,
    TRAIN_FILE,
    USERS_FILE,
    VALIDATION_FILE,
)
from pipeline.store.arrays import cases, training_sequences
from pipeline.store.arrow import row_lengths
from pipeline.store.columns import (
    ITEM_ID,
    ITEM_IDX,
    ITEMS,
    POSITION,
    SIGNAL,
    SIGNALS,
    SPLIT,
    TEST,
    TIMESTAMP,
    TIMESTAMPS,
    TRAIN,
    USER_ID,
    USER_IDX,
)

_DEFECT = "this is a defect of prepare, or the file was changed: delete the artifact and run again"


@dataclass(frozen=True)
class WrittenInteractions:
    """``interactions.parquet`` in columns."""

    folder: Path
    user_N: np.ndarray
    """int64."""
    item_N: np.ndarray
    """int32."""
    train_N: np.ndarray
    """bool."""

    @classmethod
    def read(cls, folder: Path) -> WrittenInteractions:
        return cls(folder, _column(folder, USER_IDX), _column(folder, ITEM_IDX),
                   _column(folder, SPLIT, lambda values: pc.equal(values, TRAIN)))


def check_written(folder: Path, split: SplitConfig, boundary: float | None) -> None:
    """All guards on a finished `prepare` folder.

    Raises:
        LeakageError: something of a held-out part would reach training.
        DataError: ids or order are not what the contract says.
    """
    num_users, num_items = check_ids(folder)
    written = WrittenInteractions.read(folder)
    check_order(written, num_users, num_items)
    if boundary is not None:
        check_boundary(folder, boundary)
    check_training(written)
    check_histories(written)
    check_cases(written, VALIDATION_FILE, whole_users=not isinstance(split, LeaveOneOutSplit))
    check_cases(written, TEST_FILE, whole_users=isinstance(split, SessionsSplit))


def check_ids(folder: Path) -> tuple[int, int]:
    """Users are 0…M-1 and items 1…V, each raw id once; returns (M, V)."""
    sizes = []
    for file, index, raw, start in ((USERS_FILE, USER_IDX, USER_ID, 0), (ITEMS_FILE, ITEM_IDX, ITEM_ID, 1)):
        table = pq.read_table(folder / file, columns=[index, raw])
        indices = table[index].to_numpy()
        if start == 1 and (indices == 0).any():
            raise DataError(f"{folder / file}: 0 is used as an item; it is padding and nothing else; {_DEFECT}")
        if not np.array_equal(indices, np.arange(start, start + len(indices))):
            raise DataError(f"{folder / file}: {index} is not {start}, {start + 1}, {start + 2} …; {_DEFECT}")
        if table[raw].null_count or pc.count_distinct(table[raw]).as_py() != len(indices):
            raise DataError(f"{folder / file}: {raw} is missing or stands twice; {_DEFECT}")
        sizes.append(len(indices))
    return sizes[0], sizes[1]


def check_order(written: WrittenInteractions, num_users: int, num_items: int) -> None:
    """Indices exist, users stand together, positions count from 0, time never runs backwards."""
    name = written.folder / INTERACTIONS_FILE
    if (written.item_N == 0).any():
        raise DataError(f"{name}: 0 is used as an item; it is padding and nothing else; {_DEFECT}")
    if written.item_N.min() < 1 or written.item_N.max() > num_items:
        raise DataError(f"{name}: an item index is not in 1…{num_items}; {_DEFECT}")
    steps = np.diff(written.user_N)
    if written.user_N[0] != 0 or written.user_N[-1] != num_users - 1 or not ((steps == 0) | (steps == 1)).all():
        raise DataError(f"{name}: users are not 0…{num_users - 1}, each in one piece; {_DEFECT}")
    same_user = steps == 0
    positions = _column(written.folder, POSITION).astype(np.int64)
    if positions[0] != 0 or not np.array_equal(positions[1:], np.where(same_user, positions[:-1] + 1, 0)):
        raise DataError(f"{name}: positions do not count each user's rows from 0; {_DEFECT}")
    seconds = _seconds(written.folder)
    if seconds is not None and (np.diff(seconds)[same_user] < 0).any():
        raise DataError(f"{name}: a user's rows are not in the order of time; {_DEFECT}")


def check_boundary(folder: Path, boundary: float) -> None:
    """Nothing after the boundary is in the training or the validation part."""
    seconds = _seconds(folder)
    if seconds is None:
        raise LeakageError(f"{folder / INTERACTIONS_FILE}: a split by time without times; {_DEFECT}")
    late = (seconds > boundary) & ~_column(folder, SPLIT, lambda values: pc.equal(values, TEST))
    if late.any():
        raise LeakageError(f"{folder / INTERACTIONS_FILE}: {int(late.sum()):,} interactions after the boundary "
                           f"{boundary} are outside the test part, first in row {int(np.argmax(late)):,}; {_DEFECT}")


def check_training(written: WrittenInteractions) -> None:
    """``train.arrow`` holds the training rows, all of them, in their order, and nothing else."""
    users, sequences = training_sequences(written.folder / TRAIN_FILE)
    if not np.array_equal(np.repeat(users, sequences.lengths), written.user_N[written.train_N]) or not np.array_equal(
            sequences.values, written.item_N[written.train_N]) or (sequences.lengths == 0).any():
        raise LeakageError(f"{written.folder / TRAIN_FILE}: is not exactly the training part of {INTERACTIONS_FILE}; "
                           f"{_DEFECT}")


def check_histories(written: WrittenInteractions) -> None:
    """The histories that profiles are written from are the training rows: users, items, times and signals."""
    histories = pq.read_table(written.folder / HISTORIES_FOLDER)
    lengths = row_lengths(histories[ITEMS])
    want = {USER_IDX: written.user_N[written.train_N], ITEMS: written.item_N[written.train_N]}
    have = {USER_IDX: np.repeat(histories[USER_IDX].to_numpy(), lengths),
            ITEMS: pc.list_flatten(histories[ITEMS]).to_numpy()}
    same = all(np.array_equal(have[name], want[name]) for name in want)
    for lists, column in ((TIMESTAMPS, TIMESTAMP), (SIGNALS, SIGNAL)) if same else ():
        rows = pq.read_table(written.folder / INTERACTIONS_FILE, columns=[column])[column].filter(
            pa.array(written.train_N))
        same = same and pc.list_flatten(histories[lists]).combine_chunks().equals(rows.combine_chunks())
    if not same:
        raise LeakageError(f"{written.folder / HISTORIES_FOLDER}: the histories are not exactly the training part of "
                           f"{INTERACTIONS_FILE}; {_DEFECT}")


def check_cases(written: WrittenInteractions, file: str, whole_users: bool) -> None:
    """Histories are their user's first rows, targets the row after, and no target is a training row.

    Args:
        file: ``validation.arrow`` or ``test.arrow``.
        whole_users: the split holds these users out whole, so none of them may have a training row.
    """
    name, found = written.folder / file, cases(written.folder / file)
    if len(np.unique(found.users)) != len(found):
        raise DataError(f"{name}: a user stands twice; {_DEFECT}")
    num_users = int(written.user_N[-1]) + 1
    trained_M = np.bincount(written.user_N[written.train_N], minlength=num_users)
    if whole_users and trained_M[found.users].any():
        user = int(found.users[np.argmax(trained_M[found.users] > 0)])
        raise LeakageError(f"{name}: user {user} is held out whole but has training rows; {_DEFECT}")
    starts_M = np.searchsorted(written.user_N, np.arange(num_users + 1))
    starts_C, lengths_C = starts_M[found.users], found.histories.lengths
    if (starts_C + lengths_C >= starts_M[found.users + 1]).any() or (lengths_C == 0).any():
        raise DataError(f"{name}: a history is empty or leaves no row for its target; {_DEFECT}")
    leaked = trained_M[found.users] > lengths_C
    if leaked.any():
        raise LeakageError(f"{name}: the target of user {int(found.users[np.argmax(leaked)])} is a training row; "
                           f"{_DEFECT}")
    first_C = np.cumsum(lengths_C) - lengths_C
    rows = np.repeat(starts_C - first_C, lengths_C) + np.arange(int(lengths_C.sum()))
    if not np.array_equal(written.item_N[rows], found.histories.values) or not np.array_equal(
            written.item_N[starts_C + lengths_C], found.targets):
        raise LeakageError(f"{name}: histories and targets are not their users' rows of {INTERACTIONS_FILE} in order; "
                           f"{_DEFECT}")


def _column(folder: Path, name: str, of: Callable[[pa.ChunkedArray], pa.ChunkedArray] | None = None) -> np.ndarray:
    values = pq.read_table(folder / INTERACTIONS_FILE, columns=[name])[name]
    return np.asarray((of(values) if of else values).to_numpy())


def _seconds(folder: Path) -> np.ndarray | None:
    """int64 [N], or None where every time is null."""
    values = pq.read_table(folder / INTERACTIONS_FILE, columns=[TIMESTAMP])[TIMESTAMP]
    return None if values.null_count else np.asarray(values.to_numpy())
