"""The vectors of `encode`, addressed in (user, angle) order whatever order their files have; of items in item order.

Legend: N rows (one per user and angle, or one per item), B rows asked for, E encoder width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cluster.storage import Storage
from configs.errors import DataError
from pipeline.store.arrow import by_name
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import ANGLE, USER_IDX, VECTOR

FOLDER = "vectors"


@dataclass(frozen=True)
class VectorTable:
    """Where each row's vector lies. The vectors themselves are read when asked for. Picklable."""

    storage: Storage
    files: tuple[str, ...]
    owner: str
    """Column that says whose a vector is: USER_IDX or ITEM_IDX."""
    angles: tuple[str, ...]
    """Names, sorted; ``angle_N`` counts in them. An item has one nameless angle."""
    owners_N: np.ndarray
    """int64 user or item indices, ascending."""
    angle_N: np.ndarray
    """int16, ascending within an owner."""
    file_N: np.ndarray
    """int32, index into ``files``."""
    row_N: np.ndarray
    """int64, row of that file."""

    @classmethod
    def open(cls, encoded: Artifact, owner: str = USER_IDX) -> VectorTable:
        """Read the ids of an `encode` artifact.

        Args:
            owner: USER_IDX for vectors of profiles, ITEM_IDX for those of item texts.

        Raises:
            DataError: no vectors at all, or an owner (and angle) that stands twice.
        """
        storage = encoded.storage
        files = tuple(f for f in storage.files(encoded.relative(FOLDER)) if f.endswith(".parquet"))
        columns = [owner, ANGLE] if owner == USER_IDX else [owner]
        tables = [storage.read_table(f, columns) for f in files]
        rows = [len(t) for t in tables]
        if not sum(rows):
            raise DataError("there is no profile vector to reduce: every user was rejected; "
                            "see rejected.parquet of the profile artifact")
        ids = pa.concat_tables(tables)
        owners = ids[owner].to_numpy().astype(np.int64)
        names, angle = by_name(ids[ANGLE]) if ANGLE in columns else (("",), np.zeros(len(ids), np.int64))
        order = np.lexsort((angle, owners))
        table = cls(storage, files, owner, names, owners[order], angle[order].astype(np.int16),
                    np.repeat(np.arange(len(files), dtype=np.int32), rows)[order],
                    np.concatenate([np.arange(n, dtype=np.int64) for n in rows])[order])
        twice = (table.owners_N[1:] == table.owners_N[:-1]) & (table.angle_N[1:] == table.angle_N[:-1])
        if twice.any():
            place = int(np.flatnonzero(twice)[0])
            raise DataError(f"{table._named(place)} has two vectors; rebuild the encode artifact")
        return table

    def __len__(self) -> int:
        return len(self.owners_N)

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
            raise DataError(f"the vector of {self._named(rows[broken[0]])} holds NaN or Inf, and so do "
                            f"{len(broken) - 1} others; rebuild the encode artifact")
        return out

    def _named(self, row: int) -> str:
        """A row in words."""
        angle = self.angles[self.angle_N[row]]
        return f"{self.owner} {self.owners_N[row]}" + (f" (angle {angle!r})" if angle else "")


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A fixed_size_list<float> column as [rows, width], without Python objects."""
    width = column.type.list_size
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in column.chunks]
    return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty((0, width), np.float32)])
