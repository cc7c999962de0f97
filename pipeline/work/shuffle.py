"""Who gets whose: the exchange behind every shuffled control."""

from __future__ import annotations

import numpy as np


def derangement(count: int, rng: np.random.Generator) -> np.ndarray:
    """A permutation int64 [count] in which nobody keeps their place: one random cycle through all.

    With fewer than two there is nobody to exchange with, and everybody keeps theirs.
    """
    cycle = rng.permutation(count)
    donor = np.empty(count, np.int64)
    donor[cycle] = np.roll(cycle, -1)
    return donor
