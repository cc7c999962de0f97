"""The latent side of a generated catalogue: what each item is and how likely it is, before any text or user.

Legend: I items, T tastes. Items are 0…I-1 here; their raw ids come later.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from pipeline.prepare.config import SyntheticSource

_TAIL = 2.5
"""Exponent of the power law of history lengths."""
_LONGEST = 15
"""Nobody's history is longer than so many means."""
MIN_LENGTH = 3


class Stream(IntEnum):
    """Independent random streams of one seed."""

    ITEMS = 1
    TEXTS = 2
    USERS = 3
    STEPS = 4
    LAYOUT = 5


def random(seed: int, stream: Stream, block: int = 0) -> np.random.Generator:
    """The generator of one block of one stream: a pure function of its arguments, whoever draws and when."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64), counter=[0, 0, 0, block]))


@dataclass(frozen=True)
class Catalogue:
    """Latent properties of all items."""

    taste_I: np.ndarray
    """int32, 0…T-1."""
    price_I: np.ndarray
    """float64 in [0, 1), cheap to dear."""
    successor_I: np.ndarray
    """int32: the item that tends to follow, of the same taste."""
    order_I: np.ndarray
    """int32: the items, taste by taste."""
    cumulative_I: np.ndarray
    """float64 [I + 1]: running popularity along ``order_I``, from 0 to 1."""
    starts_T: np.ndarray
    """int64 [T + 1]: where each taste begins in ``order_I``."""

    @property
    def num_tastes(self) -> int:
        return len(self.starts_T) - 1

    def pick(self, low: np.ndarray, high: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Items drawn by popularity from the stretch of running popularity ``[low, high)``."""
        place = np.searchsorted(self.cumulative_I, low + uniform * (high - low), side="right") - 1
        picked: np.ndarray = self.order_I[np.minimum(place, len(self.order_I) - 1)]
        return picked


def catalogue(config: SyntheticSource) -> Catalogue:
    """Draw the items' tastes, prices, popularity and successors."""
    rng = random(config.seed, Stream.ITEMS)
    count = config.items
    tastes = min(config.tastes, count)
    share_T = 0.5 + rng.random(tastes)
    taste_I = np.searchsorted(np.cumsum(share_T) / share_T.sum(), rng.random(count), side="right").astype(np.int32)
    np.minimum(taste_I, tastes - 1, out=taste_I)
    rank_I = np.argsort(np.argsort(rng.random(count), kind="stable"), kind="stable")
    taste_I[np.argsort(rng.random(count), kind="stable")[:tastes]] = np.arange(tastes, dtype=np.int32)
    price_I = rng.random(count)

    # Zipf-Mandelbrot: the shift keeps the first few items from taking a tenth of everything.
    depth_I = rank_I + 1.0 + count / 500
    order_I = np.argsort(taste_I, kind="stable").astype(np.int32)
    cumulative_I = np.concatenate([[0.0], np.cumsum(depth_I[order_I] ** -config.popularity_exponent)])
    cumulative_I /= cumulative_I[-1]
    starts_T = np.searchsorted(taste_I[order_I], np.arange(tastes + 1))

    # Successors have a similar popularity, so that following them keeps the power law.
    chain = np.lexsort((np.log(depth_I) + rng.random(count), taste_I)).astype(np.int32)
    following = np.roll(chain, -1)
    following[starts_T[1:] - 1] = chain[starts_T[:-1]]
    successor_I = np.empty(count, np.int32)
    successor_I[chain] = following
    return Catalogue(taste_I, price_I, successor_I, order_I, cumulative_I, starts_T)


def longest(config: SyntheticSource) -> int:
    """The longest history that can occur."""
    return max(MIN_LENGTH, min(int(_LONGEST * config.mean_length), config.items // 2))


def lengths(config: SyntheticSource, uniform: np.ndarray) -> np.ndarray:
    """Power-law history lengths (Lomax, rounded down) of mean ``mean_length``; int64 from 3 to :func:`longest`."""
    cap = longest(config)
    # P(extra >= k) = (1 + k / scale) ** -tail, and the mean is the sum of these over k.
    steps = np.arange(1, cap - MIN_LENGTH + 1)
    low, high = 0.0, 1e6
    for _ in range(60):
        scale = (low + high) / 2
        mean = MIN_LENGTH + float(((1 + steps / max(scale, 1e-12)) ** -_TAIL).sum())
        low, high = (scale, high) if mean < config.mean_length else (low, scale)
    extra = high * ((1 - uniform) ** (-1 / _TAIL) - 1)
    return MIN_LENGTH + np.minimum(extra, cap - MIN_LENGTH).astype(np.int64)
