"""Which users get a profile: all, or a sample of them."""

from __future__ import annotations

import numpy as np

from pipeline.profile.config import ProfileConfig

_SEED = 0


def sampled(config: ProfileConfig, ids_N: np.ndarray) -> np.ndarray:
    """The users who get a profile, ascending int64; a larger sample of the same users holds the smaller ones.

    Args:
        config: settings.
        ids_N: every user with a training history, ascending int64.
    """
    if config.users is None or config.users >= len(ids_N):
        return ids_N
    return np.sort(np.random.default_rng(_SEED).permutation(ids_N)[: config.users])
