"""The vectors of `encode`, addressed in (user, angle) order whatever order their files have.

Legend: N rows (one per user and angle), B rows asked for, E encoder width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cluster.storage import Storage
from configs.errors import DataError
from pipeline.artifacts import Artifact
from pipeline.columns import ANGLE, USER_IDX, VECTOR

FOLDER = "vectors"


@dataclass(frozen=True)
class VectorTable:
    """Where each row's vector lies. The vectors themselves are read when asked for. Picklable."""

    storage: Storage
    files: tuple[str, ...]
    angles: tuple[str, ...]
    """Names, sorted; ``angle_N`` counts in them."""
    users_N: np.ndarray
    """int64, ascending."""
    angle_N: np.ndarray
    """int16, ascending within a user."""
    file_N: np.ndarray
    """int32, index into ``files``."""
    row_N: np.ndarray
    """int64, row of that file."""

    @classmethod
    def open(cls, encoded: Artifact) -> VectorTable:
        """Read the ids of an `encode` artifact.

        Raises:
            DataError: no vectors at all, or a (user, angle) that stands twice.
        """
        storage = encoded.storage
        files = tuple(f for f in storage.files(encoded.relative(FOLDER)) if f.endswith(".parquet"))
        tables = [storage.read_table(f, [USER_IDX, ANGLE]) for f in files]
        rows = [len(t) for t in tables]
        if not sum(rows):
            raise DataError("there is no profile vector to reduce: every user was rejected; "
                            "see rejected.parquet of the profile artifact")
        ids = pa.concat_tables(tables)
        users = ids[USER_IDX].to_numpy()
        names, angle = np.unique(np.asarray(ids[ANGLE].to_pylist(), dtype=str), return_inverse=True)
        order = np.lexsort((angle, users))
        table = cls(storage, files, tuple(map(str, names)), users[order], angle[order].astype(np.int16),
                    np.repeat(np.arange(len(files), dtype=np.int32), rows)[order],
                    np.concatenate([np.arange(n, dtype=np.int64) for n in rows])[order])
        twice = (table.users_N[1:] == table.users_N[:-1]) & (table.angle_N[1:] == table.angle_N[:-1])
        if twice.any():
            place = int(np.flatnonzero(twice)[0])
            raise DataError(f"user_idx {table.users_N[place]} has two vectors for the angle "
                            f"{table.angles[table.angle_N[place]]!r}; rebuild the encode artifact")
        return table

    def __len__(self) -> int:
        return len(self.users_N)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """fp32 [B, E], the vectors of rows (indices in (user, angle) order).

        Raises:
            DataError: a vector holds NaN or Inf.
        """
        out: np.ndarray | None = None
        by_file = np.argsort(self.file_N[rows], kind="stable")
        numbers, starts = np.unique(self.file_N[rows][by_file], return_index=True)
        for number, places in zip(numbers, np.split(by_file, starts[1:]), strict=True):
            vectors = _matrix(self.storage.read_table(self.files[number], [VECTOR])[VECTOR])
            if out is None:
                out = np.empty((len(rows), vectors.shape[1]), np.float32)
            out[places] = vectors[self.row_N[rows[places]]]
        if out is None:
            raise ValueError("no rows were asked for")
        broken = np.flatnonzero(~np.isfinite(out).all(axis=1))
        if len(broken):
            first = rows[broken[0]]
            angle = self.angles[self.angle_N[first]]
            raise DataError(f"the vector of user_idx {self.users_N[first]} (angle {angle!r}) holds NaN or Inf, "
                            f"and so do {len(broken) - 1} others; rebuild the encode artifact")
        return out


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A fixed_size_list<float> column as [rows, width], without Python objects."""
    width = column.type.list_size
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in column.chunks]
    return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty((0, width), np.float32)])
