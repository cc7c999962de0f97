"""The items of largest inner product with a state, from an index that may miss one: faiss, inverted lists (IVF).

How many lists a search looks into is settled when the index is built, by what users' own states find. A graph (HNSW)
was measured beside it (`make bench-ann`): with inner products over a catalogue of the size of Amazon-M2 it misses more
than 5 % of the exact lists' items however hard it looks.

Legend: N states, D vector width, V items 1…n, K list length.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from configs.errors import ArtifactError, MissingExtraError

INDEX: Final = "items.faiss"
"""Beside an exported model's weights."""
K: Final = 10
TARGET: Final = 0.995
"""The index looks into as many inverted lists as find this share of the exact lists' items, in lists of K."""
_LISTS_PER_ROOT, _LEAST_ITEMS = 4, 39
"""Inverted lists: 4 √V, as faiss advises, and no fewer items in each than it wants for its k-means."""


class NearestItems:
    """An index over the whole catalogue. Searching changes nothing; faiss shares the work among its threads."""

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def build(cls, items_VD: np.ndarray, states_ND: np.ndarray) -> tuple[NearestItems, float]:
        """From the items' vectors, fp32.

        Args:
            states_ND: of users such as will ask, fp32; at least one.

        Returns:
            The index, and the share of these users' exact lists that it finds.

        Raises:
            MissingExtraError: faiss is not installed.
        """
        faiss = _faiss()
        items_VD, states_ND = (np.ascontiguousarray(rows, np.float32) for rows in (items_VD, states_ND))
        lists = max(1, min(round(_LISTS_PER_ROOT * len(items_VD) ** 0.5), len(items_VD) // _LEAST_ITEMS))
        quantizer = faiss.IndexFlatIP(items_VD.shape[1])
        index = faiss.IndexIVFFlat(quantizer, items_VD.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        index.train(items_VD)
        index.add(items_VD)
        index.nprobe = lists
        exact_NK = index.search(states_ND, K)[1]
        recall = 1.0
        for index.nprobe in _doubled(lists):
            found_NK = index.search(states_ND, K)[1]
            pairs = zip(exact_NK, found_NK, strict=True)
            recall = float(np.mean([np.isin(exact, found).mean() for exact, found in pairs]))
            if recall >= TARGET:
                break
        return cls(index), recall

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
        if (index.ntotal, index.d) != (num_items, width) or not hasattr(index, "nprobe"):
            raise ArtifactError(f"{path}: {index.ntotal:,} vectors of width {index.d}, the model has {num_items:,} of "
                                f"width {width}; export the run again")
        return cls(index)

    def save(self, folder: Path) -> None:
        """Write ``items.faiss``."""
        _faiss().write_index(self._index, str(folder / INDEX))

    def search(self, states_ND: np.ndarray, k: int) -> np.ndarray:
        """Items of the largest inner products, int64 [N, K]; 0 where none was found."""
        enough = -(-2 * k * self._index.nlist // max(self._index.ntotal, 1))  # long lists need more than their share
        wide = _faiss().SearchParametersIVF(nprobe=min(max(self._index.nprobe, enough), self._index.nlist))
        _, places_NK = self._index.search(np.ascontiguousarray(states_ND, np.float32), k, params=wide)
        found: np.ndarray = places_NK + 1
        return found


def _doubled(most: int) -> Iterator[int]:
    """1, 2, 4, …, and the last."""
    count = 1
    while count < most:
        yield count
        count *= 2
    yield most


def available() -> bool:
    """Whether faiss is installed."""
    return importlib.util.find_spec("faiss") is not None


def _faiss() -> Any:
    if not available():
        raise MissingExtraError("faiss-cpu", "ann")
    import faiss

    return faiss
