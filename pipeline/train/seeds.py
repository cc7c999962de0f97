"""Randomness by counters: every draw is a pure function of the run's seed and of the place where it happens."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from models.hashing import derive_seed


class Stream(IntEnum):
    """What a draw is for; streams never share numbers."""

    ORDER = 101
    """Batch order of an epoch."""
    MASKS = 102
    """Masked positions of an epoch."""
    DROPOUT = 103
    """Dropout of one step on one rank."""
    SHUFFLED_TARGETS = 104
    RANDOM_TARGETS = 105
    VALIDATION_SAMPLE = 106
    NEGATIVES = 107
    """Negatives of one step."""
    ITEM_TABLE = 108
    """Start of a table that is computed from texts."""
    SHUFFLED_ITEMS = 109
    RANDOM_ITEMS = 110


def generator(seed: int, stream: Stream, *counters: int) -> np.random.Generator:
    """A numpy generator for one place."""
    return np.random.Generator(np.random.Philox(derive_seed(seed, stream, *counters)))
