"""Guards that fail the run, on the files as they were written: no leakage, no duplicate id, no item 0.

They read back what later stages read, so that a defect in the writing cannot hide itself.

Legend: N interactions of a row group, M users, V items, C cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import DataError, LeakageError
from models.ragged import offsets_of
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
    """``interactions.parquet``, of which a row group at a time is read."""

    folder: Path
    starts_M: np.ndarray
    """int64 [M + 1]: each user's first row, and the number of rows."""
    trained_M: np.ndarray
    """int64 [M]: each user's training rows."""

    @classmethod
    def read(cls, folder: Path) -> WrittenInteractions:
        """Of a file that ``check_order`` let pass."""
        rows_M = trained_M = np.zeros(0, np.int64)
        for users_N, train_N in _groups(folder, USER_IDX, SPLIT):
            size = int(users_N[-1]) + 1
            rows_M, trained_M = (_sum(counts_M, np.bincount(users, minlength=size)) for counts_M, users in (
                (rows_M, users_N), (trained_M, users_N[train_N == TRAIN])))
        return cls(folder, offsets_of(rows_M), trained_M)

    def training(self, *columns: str) -> Iterator[list[pa.Array]]:
        """Columns of the training rows, group by group."""
        for table in _tables(self.folder, *columns, SPLIT):
            train = table.filter(pc.equal(table[SPLIT], TRAIN))
            yield [train[name].combine_chunks() for name in columns]


def check_written(folder: Path, split: SplitConfig, boundary: float | None) -> None:
    """All guards on a finished `prepare` folder.

    Raises:
        LeakageError: something of a held-out part would reach training.
        DataError: ids or order are not what the contract says.
    """
    num_users, num_items = check_ids(folder)
    check_order(folder, num_users, num_items)
    if boundary is not None:
        check_boundary(folder, boundary)
    written = WrittenInteractions.read(folder)
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


def check_order(folder: Path, num_users: int, num_items: int) -> None:
    """Indices exist, users stand together, positions count from 0, time never runs backwards."""
    name = folder / INTERACTIONS_FILE
    user, position, second = -1, 0, None
    for users_N, items_N, positions_N, seconds_N in _groups(folder, USER_IDX, ITEM_IDX, POSITION, TIMESTAMP):
        if (items_N == 0).any():
            raise DataError(f"{name}: 0 is used as an item; it is padding and nothing else; {_DEFECT}")
        if items_N.min() < 1 or items_N.max() > num_items:
            raise DataError(f"{name}: an item index is not in 1…{num_items}; {_DEFECT}")
        steps = np.diff(users_N, prepend=user)
        if not ((steps == 0) | (steps == 1)).all() or users_N[-1] >= num_users:
            raise DataError(f"{name}: users are not 0…{num_users - 1}, each in one piece; {_DEFECT}")
        same_user = steps == 0
        before_N = np.concatenate([[position], positions_N[:-1].astype(np.int64)])
        if not np.array_equal(positions_N, np.where(same_user, before_N + 1, 0)):
            raise DataError(f"{name}: positions do not count each user's rows from 0; {_DEFECT}")
        if seconds_N is not None:
            if (np.diff(seconds_N, prepend=seconds_N[0] if second is None else second)[same_user] < 0).any():
                raise DataError(f"{name}: a user's rows are not in the order of time; {_DEFECT}")
            second = int(seconds_N[-1])
        user, position = int(users_N[-1]), int(positions_N[-1])
    if user != num_users - 1:
        raise DataError(f"{name}: users are not 0…{num_users - 1}, each in one piece; {_DEFECT}")


def check_boundary(folder: Path, boundary: float) -> None:
    """Nothing after the boundary is in the training or the validation part."""
    rows, total, first = 0, 0, None
    for seconds_N, parts_N in _groups(folder, TIMESTAMP, SPLIT):
        if seconds_N is None:
            raise LeakageError(f"{folder / INTERACTIONS_FILE}: a split by time without times; {_DEFECT}")
        late_N = (seconds_N > boundary) & (parts_N != TEST)
        if first is None and late_N.any():
            first = rows + int(np.argmax(late_N))
        total += int(late_N.sum())
        rows += len(seconds_N)
    if first is not None:
        raise LeakageError(f"{folder / INTERACTIONS_FILE}: {total:,} interactions after the boundary {boundary} are "
                           f"outside the test part, first in row {first:,}; {_DEFECT}")


def check_training(written: WrittenInteractions) -> None:
    """``train.arrow`` holds the training rows, all of them, in their order, and nothing else."""
    users, sequences = training_sequences(written.folder / TRAIN_FILE)
    trained = np.flatnonzero(written.trained_M)
    same = np.array_equal(users, trained) and np.array_equal(sequences.lengths, written.trained_M[trained])
    start = 0
    for items, in written.training(ITEM_IDX) if same else ():
        same = same and np.array_equal(sequences.values[start:start + len(items)], items.to_numpy())
        start += len(items)
    if not same or start != len(sequences.values):
        raise LeakageError(f"{written.folder / TRAIN_FILE}: is not exactly the training part of {INTERACTIONS_FILE}; "
                           f"{_DEFECT}")


def check_histories(written: WrittenInteractions) -> None:
    """The histories that profiles are written from are the training rows: users, items, times and signals."""
    folder = written.folder / HISTORIES_FOLDER
    rows = _Rows(written.training(USER_IDX, ITEM_IDX, TIMESTAMP, SIGNAL))
    same = True
    for part in sorted(folder.iterdir()):
        histories = pq.read_table(part, columns=[USER_IDX, ITEMS, TIMESTAMPS, SIGNALS])
        lengths = row_lengths(histories[ITEMS])
        flat = [pa.array(np.repeat(histories[USER_IDX].to_numpy(), lengths)),
                *(pc.list_flatten(histories[name]).combine_chunks() for name in (ITEMS, TIMESTAMPS, SIGNALS))]
        want = rows.take(int(lengths.sum()))
        same = same and want is not None and all(have.equals(column) for have, column in zip(flat, want, strict=False))
    if not same or rows.take(1) is not None:
        raise LeakageError(f"{folder}: the histories are not exactly the training part of {INTERACTIONS_FILE}; "
                           f"{_DEFECT}")


class _Rows:
    """Columns that come group by group, taken in pieces of other sizes."""

    def __init__(self, groups: Iterator[list[pa.Array]]) -> None:
        self._groups = groups
        self._held: list[list[pa.Array]] = []

    def take(self, size: int) -> list[pa.Array] | None:
        """The next ``size`` rows; None where there are fewer."""
        while sum(len(group[0]) for group in self._held) < size:
            group = next(self._groups, None)
            if group is None:
                return None
            self._held.append(group)
        if not self._held:
            return []
        columns = [pa.concat_arrays(column) for column in zip(*self._held, strict=True)]
        self._held = [[column.slice(size) for column in columns]]
        return [column.slice(0, size) for column in columns]


def check_cases(written: WrittenInteractions, file: str, whole_users: bool) -> None:
    """Histories are their user's first rows, targets the row after, and no target is a training row.

    Args:
        file: ``validation.arrow`` or ``test.arrow``.
        whole_users: the split holds these users out whole, so none of them may have a training row.
    """
    name, found = written.folder / file, cases(written.folder / file)
    if len(np.unique(found.users)) != len(found):
        raise DataError(f"{name}: a user stands twice; {_DEFECT}")
    trained_M, starts_M = written.trained_M, written.starts_M
    if whole_users and trained_M[found.users].any():
        user = int(found.users[np.argmax(trained_M[found.users] > 0)])
        raise LeakageError(f"{name}: user {user} is held out whole but has training rows; {_DEFECT}")
    starts_C, lengths_C = starts_M[found.users], found.histories.lengths
    if (starts_C + lengths_C >= starts_M[found.users + 1]).any() or (lengths_C == 0).any():
        raise DataError(f"{name}: a history is empty or leaves no row for its target; {_DEFECT}")
    leaked = trained_M[found.users] > lengths_C
    if leaked.any():
        raise LeakageError(f"{name}: the target of user {int(found.users[np.argmax(leaked)])} is a training row; "
                           f"{_DEFECT}")
    case_M = np.full(len(trained_M), -1, np.int64)
    case_M[found.users] = np.arange(len(found))
    for users_N, items_N, positions_N in _groups(written.folder, USER_IDX, ITEM_IDX, POSITION):
        case_N = case_M[users_N]
        length_N = np.where(case_N < 0, -1, lengths_C[case_N])
        inside, target = positions_N < length_N, positions_N == length_N
        places = found.histories.offsets[case_N[inside]] + positions_N[inside]
        if not np.array_equal(items_N[inside], found.histories.values[places]) or not np.array_equal(
                items_N[target], found.targets[case_N[target]]):
            raise LeakageError(f"{name}: histories and targets are not their users' rows of {INTERACTIONS_FILE} in "
                               f"order; {_DEFECT}")


def _tables(folder: Path, *columns: str) -> Iterator[pa.Table]:
    with pq.ParquetFile(folder / INTERACTIONS_FILE) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=list(columns))


def _groups(folder: Path, *columns: str) -> Iterator[list[Any]]:
    """Columns as arrays, a row group at a time; a column with a null is None: times are all there, or none is."""
    for table in _tables(folder, *columns):
        yield [None if table[name].null_count else np.asarray(table[name].to_numpy()) for name in columns]


def _sum(counts_M: np.ndarray, more_M: np.ndarray) -> np.ndarray:
    """Counts of the same and further users."""
    more_M[:len(counts_M)] += counts_M
    return more_M
