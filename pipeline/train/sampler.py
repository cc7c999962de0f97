"""Batch order as a pure function of (seed, epoch, global batch size), whatever the number of workers.

Legend: N training rows, B users of a global batch, S optimizer steps of an epoch, R workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.train.seeds import Stream, generator


@dataclass(frozen=True)
class EpochOrder:
    """The global batches of one epoch; any step can be asked for at once."""

    rows_N: np.ndarray
    """int64, every training row once."""
    batch_size: int

    def __len__(self) -> int:
        return math.ceil(len(self.rows_N) / self.batch_size)

    def batch(self, step: int) -> np.ndarray:
        """Rows of global batch ``step`` (from 0), ascending by length; the last one may be smaller."""
        return self.rows_N[step * self.batch_size : (step + 1) * self.batch_size]

    def part(self, step: int, rank: int, world_size: int) -> np.ndarray:
        """One worker's rows of a global batch: every ``world_size``-th, so that all get the same mix of lengths; empty
        when the batch has fewer rows."""
        return self.batch(step)[rank::world_size]


@dataclass(frozen=True)
class Sampler:
    """Shuffles the rows, cuts batches, sorts each batch by length.

    A batch is a random sample of the users. Batches of rows of one length would hold less padding, but the loss is a
    mean over a batch's positions: short and long batches would weigh the same, and so the positions of short
    histories far more than those of long ones. Padding is avoided inside a batch instead, see
    :func:`models.sequences.pieces`.
    """

    lengths_N: np.ndarray
    """Items of each row, as the model will see it."""
    batch_size: int
    """B, over all workers."""
    seed: int

    def __len__(self) -> int:
        """S."""
        return math.ceil(len(self.lengths_N) / self.batch_size)

    def epoch(self, epoch: int) -> EpochOrder:
        """The order of one epoch (from 0). Rows that fill no whole batch come last."""
        rows_N = generator(self.seed, Stream.ORDER, epoch).permutation(len(self.lengths_N))
        batch_N = np.arange(len(rows_N)) // self.batch_size
        return EpochOrder(rows_N[np.lexsort((self.lengths_N[rows_N], batch_N))], self.batch_size)
