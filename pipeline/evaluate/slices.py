"""Slices of the test cases: by a count in bins, and by the category of the target.

Legend: N cases, V catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

HISTORY_BINS: Final = (("0", 0), ("1-2", 1), ("3-5", 3), ("6-10", 6), ("11-20", 11), ("21-50", 21), ("51+", 51))
FREQUENCY_BINS: Final = (("0 (cold)", 0), ("1-5", 1), ("6-20", 6), ("21-100", 21), ("101+", 101))
"""Label and smallest value of each bin."""
MAX_CATEGORIES: Final = 12
"""Categories with a slice of their own, those of most targets; the others share one."""


def binned(values_N: np.ndarray, bins: Sequence[tuple[str, int]]) -> Iterator[tuple[str, np.ndarray]]:
    """Label and bool [N] of each bin: from its smallest value up to the next bin's."""
    place_N = np.searchsorted([smallest for _, smallest in bins], values_N, side="right") - 1
    for place, (label, _) in enumerate(bins):
        yield label, place_N == place


def by_category(targets_N: np.ndarray, categories: Sequence[str | None]) -> Iterator[tuple[str, np.ndarray]]:
    """Label and bool [N] of the most frequent categories of the targets, of the others, of items without one.

    Args:
        targets_N: items from 1.
        categories: of the V items in index order; None and empty text are none.
    """
    names = sorted({name for name in categories if name})
    code_of = {name: code for code, name in enumerate(names)}
    code_V = np.array([code_of[name] if name else -1 for name in categories], np.int64)
    code_N = code_V[targets_N - 1]
    frequency = np.bincount(code_N[code_N >= 0], minlength=len(names))
    chosen = np.lexsort((np.arange(len(names)), -frequency))[:MAX_CATEGORIES]
    for code in chosen:
        yield names[code], code_N == code
    yield "other categories", (code_N >= 0) & ~np.isin(code_N, chosen)
    yield "no category", code_N < 0
