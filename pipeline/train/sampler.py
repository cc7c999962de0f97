"""Batch order as a pure function of (seed, epoch, global batch size), whatever the number of workers.

Legend: N training rows, B users of a global batch, S optimizer steps of an epoch, R workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.train.seeds import Stream, generator

WINDOW_BATCHES = 32
"""Rows are sorted by length inside windows of so many batches: little padding, order still random."""


@dataclass(frozen=True)
class EpochOrder:
    """The global batches of one epoch; any step can be asked for at once."""

    rows_N: np.ndarray
    """int64, every training row once."""
    batch_size: int

    def __len__(self) -> int:
        return math.ceil(len(self.rows_N) / self.batch_size)

    def batch(self, step: int) -> np.ndarray:
        """Rows of global batch ``step`` (from 0); the last one may be smaller."""
        return self.rows_N[step * self.batch_size : (step + 1) * self.batch_size]

    def part(self, step: int, rank: int, world_size: int) -> np.ndarray:
        """One worker's rows of a global batch: every ``world_size``-th; empty when the batch has fewer rows."""
        return self.batch(step)[rank::world_size]


@dataclass(frozen=True)
class Sampler:
    """Shuffles the rows, sorts them by length inside windows, cuts batches, shuffles the batches."""

    lengths_N: np.ndarray
    """Items of each row, as the model will see it."""
    batch_size: int
    """B, over all workers."""
    seed: int

    def __len__(self) -> int:
        """S."""
        return math.ceil(len(self.lengths_N) / self.batch_size)

    def epoch(self, epoch: int) -> EpochOrder:
        """The order of one epoch (from 0). Rows that fill no whole batch come last, drawn at random."""
        rng = generator(self.seed, Stream.ORDER, epoch)
        rows_N = rng.permutation(len(self.lengths_N))
        whole = len(rows_N) // self.batch_size * self.batch_size
        head = rows_N[:whole]
        window = np.arange(whole) // (self.batch_size * WINDOW_BATCHES)
        head = head[np.lexsort((self.lengths_N[head], window))]
        batches = head.reshape(-1, self.batch_size)
        rows_N[:whole] = batches[rng.permutation(len(batches))].ravel()
        return EpochOrder(rows_N, self.batch_size)
