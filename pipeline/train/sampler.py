"""Batch order as a pure function of (seed, epoch, global batch size), whatever the number of workers.

Legend: N training rows, B users of a global batch, S optimizer steps of an epoch, R workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from models.ragged import offsets_of
from pipeline.train.seeds import Stream, generator


@dataclass(frozen=True)
class EpochOrder:
    """The global batches of one epoch; any step can be asked for at once."""

    rows_N: np.ndarray
    """int32, every training row once, batch after batch; within a batch in random order."""
    edges: np.ndarray
    """int64 [S + 1]; batch i has ``rows_N[edges[i]:edges[i + 1]]``."""
    lengths_N: np.ndarray
    """Items of each row."""

    def __len__(self) -> int:
        return len(self.edges) - 1

    def batch(self, step: int) -> np.ndarray:
        """Rows of global batch ``step`` (from 0), ascending by length."""
        rows_B = self.rows_N[self.edges[step] : self.edges[step + 1]]
        return rows_B[np.argsort(self.lengths_N[rows_B], kind="stable")]

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

    With ``batch_tokens`` all batches hold about as many positions, so positions weigh alike and rows of one length may
    share a batch: all rows are sorted by length, ties at random, and cut; the batches come in random order. Their sizes
    are the same in every epoch, so that an epoch has a fixed number of steps.
    """

    lengths_N: np.ndarray
    """Items of each row, as the model will see it."""
    batch_size: int
    """Users of a batch, over all workers; with ``batch_tokens`` at most."""
    seed: int
    batch_tokens: int | None = None
    """Rows × longest row of a batch, at most (one row is always allowed); None: unbounded."""

    def __len__(self) -> int:
        """S."""
        return len(self._edges) - 1

    def epoch(self, epoch: int) -> EpochOrder:
        """The order of one epoch (from 0). With a fixed size, rows that fill no whole batch come last."""
        rng = generator(self.seed, Stream.ORDER, epoch)
        rows_N = rng.permutation(np.arange(len(self.lengths_N), dtype=np.int32))
        if self.batch_tokens is not None:
            return self._shuffled(rows_N[np.argsort(self.lengths_N[rows_N], kind="stable")], rng)
        return EpochOrder(rows_N, self._edges, self.lengths_N)

    def _shuffled(self, rows_N: np.ndarray, rng: np.random.Generator) -> EpochOrder:
        """Batches of different sizes in random order."""
        order = rng.permutation(len(self))
        sizes = np.diff(self._edges)[order]
        edges = offsets_of(sizes)
        source = np.repeat(self._edges[:-1][order] - edges[:-1], sizes) + np.arange(len(rows_N))
        return EpochOrder(rows_N[source], edges, self.lengths_N)

    @cached_property
    def _edges(self) -> np.ndarray:
        """Where batches begin and end, among rows in the order that they are cut from."""
        total = len(self.lengths_N)
        if self.batch_tokens is None:
            return np.append(np.arange(0, total, self.batch_size), total)
        lengths_N, edges = np.sort(self.lengths_N), [0]
        while edges[-1] < total:
            start = edges[-1]
            most = np.arange(1, min(self.batch_size, total - start) + 1) * lengths_N[start : start + self.batch_size]
            edges.append(start + max(int(np.searchsorted(most, self.batch_tokens, side="right")), 1))
        return np.array(edges, np.int64)
