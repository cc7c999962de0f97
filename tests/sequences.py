"""Generated training sequences of any size."""

from __future__ import annotations

import numpy as np

from models.sequences import Sequences


def generate(users: int, items: int, mean_length: float = 6.9, seed: int = 0) -> Sequences:
    """Sequences of at least 3 items with a long tail of lengths, over items of Zipf-like popularity."""
    rng = np.random.default_rng(seed)
    lengths = 3 + np.minimum(rng.geometric(1 / (mean_length - 2), users) - 1, 197)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    rank = np.minimum(items * rng.random(offsets[-1]) ** 2.0, items - 1).astype(np.int64)
    return Sequences((rng.permutation(items)[rank] + 1).astype(np.int32), offsets)
