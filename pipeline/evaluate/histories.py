"""Histories as weighted sparse rows.

Legend: B users, V catalogue. Column i - 1 is item i.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from models.sequences import Sequences, flat_histories

_NOTHING = 1e-8
"""A history item of a smaller weight is left out: beside the newest item's 1 it is below float32's resolution."""


def train_counts(train: Sequences, num_items: int) -> np.ndarray:
    """Training interactions of item 1, 2, …: int64 [V]."""
    return np.bincount(train.values, minlength=num_items + 1)[1:]


def weighted_histories(histories: Sequences, indices: np.ndarray, decay: float, num_items: int,
                       last_items: int | None = None) -> sparse.csr_matrix:
    """float32 [B, V]: exp(-decay · steps back) at each history item; a repeated item counts once, at its last place.

    Args:
        histories: item sequences.
        indices: which of them, in this order.
        decay: per step; 0 = weight 1 everywhere.
        num_items: V.
        last_items: only so many recent items; None: all.
    """
    rows, items, steps_back = flat_histories(histories, indices)
    if last_items is not None:
        recent = steps_back < last_items
        rows, items, steps_back = rows[recent], items[recent], steps_back[recent]
    newest_first = np.arange(len(rows))[::-1]
    cells, first = np.unique((rows * num_items + items - 1)[::-1], return_index=True)
    weights = np.exp(-decay * steps_back[newest_first[first]]).astype(np.float32)
    counted = weights > _NOTHING
    cells, weights = cells[counted], weights[counted]
    return sparse.csr_matrix((weights, (cells // num_items, cells % num_items)), shape=(len(indices), num_items))
