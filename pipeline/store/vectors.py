"""Vectors of users or items as arrays that readers memory-map: one safetensors file.

Legend: N rows (one per user and angle, or one per item), P width, B rows of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.store.columns import ANGLE, USER_IDX, VECTOR
from pipeline.store.tensors import file_writer, map_file


@dataclass(frozen=True)
class VectorRows:
    """N vectors, by owner and angle."""

    owners_N: np.ndarray
    """int64, user or item indices, ascending."""
    angle_N: np.ndarray
    """int16, places among the angles' names, ascending within an owner; an item has one nameless angle."""
    vectors_NP: np.ndarray
    """fp32."""

    @classmethod
    def open(cls, path: Path, owner: str = USER_IDX) -> VectorRows:
        """Memory-map a file of :func:`vector_writer`."""
        mapped = map_file(path)
        return cls(mapped[owner], mapped[ANGLE], mapped[VECTOR])


@contextmanager
def vector_writer(path: Path, owner: str, owners_N: np.ndarray, angle_N: np.ndarray, width: int
                  ) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes a file of so many vectors: the function takes them part by part, fp32 [B, P], in the order of the owners.

    Args:
        owner: USER_IDX for vectors of users, ITEM_IDX for those of items.

    Raises:
        OSError: the file cannot be written.
        ValueError: more or fewer vectors were given than there are owners.
    """
    count = len(owners_N)
    with file_writer(path, {owner: (np.int64, (count,)), ANGLE: (np.int16, (count,)),
                            VECTOR: (np.float32, (count, width))}) as write:
        write(owners_N.astype(np.int64))
        write(angle_N.astype(np.int16))
        yield write
