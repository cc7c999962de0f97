"""The items of largest inner product with a state, from an index that may miss one: faiss, HNSW.

Legend: N states, D vector width, V items 1…n, K list length.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Final

import numpy as np

from configs.errors import ArtifactError, MissingExtraError

INDEX: Final = "items.faiss"
"""Beside an exported model's weights."""
_LINKS, _BUILD_WIDTH, _SEARCH_WIDTH = 32, 200, 256
"""HNSW's M, efConstruction and efSearch: `make bench-ann` measures them."""


class NearestItems:
    """An index over the whole catalogue. Searching changes nothing; faiss shares the work among its threads."""

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def build(cls, items_VD: np.ndarray) -> NearestItems:
        """From the items' vectors, fp32.

        Raises:
            MissingExtraError: faiss is not installed.
        """
        faiss = _faiss()
        index = faiss.IndexHNSWFlat(items_VD.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _BUILD_WIDTH
        index.add(np.ascontiguousarray(items_VD, np.float32))
        return cls(index)

    @classmethod
    def open(cls, folder: Path, num_items: int, width: int) -> NearestItems:
        """The index of an exported folder.

        Raises:
            ArtifactError: it cannot be read, or is of other vectors.
            MissingExtraError: faiss is not installed.
        """
        faiss, path = _faiss(), folder / INDEX
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as exc:
            raise ArtifactError(f"{path}: cannot be read; export the run again") from exc
        if (index.ntotal, index.d) != (num_items, width) or not hasattr(index, "hnsw"):
            raise ArtifactError(f"{path}: {index.ntotal:,} vectors of width {index.d}, the model has {num_items:,} of "
                                f"width {width}; export the run again")
        return cls(index)

    def save(self, folder: Path) -> None:
        """Write ``items.faiss``."""
        _faiss().write_index(self._index, str(folder / INDEX))

    def search(self, states_ND: np.ndarray, k: int) -> np.ndarray:
        """Items of the largest inner products, int64 [N, K]; 0 where none was found."""
        wide = _faiss().SearchParametersHNSW(efSearch=max(k, _SEARCH_WIDTH))
        _, places_NK = self._index.search(np.ascontiguousarray(states_ND, np.float32), k, params=wide)
        found: np.ndarray = places_NK + 1
        return found


def available() -> bool:
    """Whether faiss is installed."""
    return importlib.util.find_spec("faiss") is not None


def _faiss() -> Any:
    if not available():
        raise MissingExtraError("faiss-cpu", "ann")
    import faiss

    return faiss
