"""Many sequences as one flat array plus offsets, and the padded batches cut from them.

Legend: N users, B batch, L positions, A profiles per user, P profile width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.ragged import offsets_of


@dataclass(frozen=True)
class Sequences:
    """N item sequences in time order. Arrays may be memory maps; nothing is copied."""

    values: np.ndarray
    """int32, all items end to end."""
    offsets: np.ndarray
    """int64 [N + 1]; sequence i is ``values[offsets[i]:offsets[i + 1]]``."""

    @classmethod
    def from_lists(cls, lists: list[list[int]]) -> Sequences:
        """From Python lists, for tests and small jobs."""
        return cls(np.array([v for x in lists for v in x], np.int32), offsets_of([len(x) for x in lists]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]."""
        return np.diff(self.offsets)

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        """int64 [B], of the chosen sequences."""
        return self.offsets[1:][indices] - self.offsets[:-1][indices]

    def part(self, start: int, stop: int) -> Sequences:
        """Sequences start…stop-1, or to the last one."""
        offsets = self.offsets[start : stop + 1]
        return Sequences(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])

    def padded(self, indices: np.ndarray, max_length: int) -> np.ndarray:
        """The last ``max_length`` items of each chosen sequence, right-padded with 0: int64 [B, L], L ≤ max_length."""
        ends = self.offsets[1:][indices]
        starts = np.maximum(self.offsets[:-1][indices], ends - max_length)
        lengths = ends - starts
        width = int(lengths.max(initial=1))
        columns = np.arange(width)
        real_BL = columns < lengths[:, None]
        out_BL = np.zeros((len(indices), width), np.int64)
        out_BL[real_BL] = self.values[(starts[:, None] + columns)[real_BL]]
        return out_BL


def flat_histories(histories: Sequences, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row (place in ``indices``), item and steps back from the history's end of every interaction, in time order."""
    lengths = histories.lengths_of(indices)
    rows = np.repeat(np.arange(len(indices)), lengths)
    steps_back = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(rows)) - 1
    items = histories.values[np.repeat(histories.offsets[1:][indices], lengths) - steps_back - 1]
    return rows, items.astype(np.int64), steps_back


@dataclass(frozen=True)
class Cases:
    """Ranking tasks: what may be seen, and the item to be found."""

    users: np.ndarray
    """int64 [N]."""
    histories: Sequences
    targets: np.ndarray
    """int32 [N], 1…n."""

    def __len__(self) -> int:
        return len(self.users)

    def take(self, index_N: np.ndarray) -> Cases:
        """Some of the cases, in the order asked for."""
        lengths_N = self.histories.lengths_of(index_N)
        offsets = offsets_of(lengths_N)
        source = np.repeat(self.histories.offsets[:-1][index_N] - offsets[:-1], lengths_N) + np.arange(offsets[-1])
        return Cases(self.users[index_N], Sequences(self.histories.values[source], offsets), self.targets[index_N])


MIN_SAVED = 512
"""Positions of padding that cost about as much as one more call of the encoder."""


class Piece(NamedTuple):
    """Consecutive rows of a batch that the encoder reads in one call."""

    rows: int
    width: int
    """Items of its longest row."""


def pieces(lengths_B: np.ndarray) -> tuple[Piece, ...]:
    """Cut rows into pieces of their own width, where a cut saves MIN_SAVED positions or more.

    Args:
        lengths_B: items of each row, ascending: longer rows stand in later, wider pieces.
    """
    if not len(lengths_B):
        return ()
    widest = int(lengths_B[-1])
    saved_B = np.arange(1, len(lengths_B)) * (widest - lengths_B[:-1])  # by a cut after each row but the last
    cut = int(saved_B.argmax()) + 1 if len(saved_B) else 0
    if not cut or saved_B[cut - 1] < MIN_SAVED:
        return (Piece(len(lengths_B), max(widest, 1)),)
    return (*pieces(lengths_B[:cut]), *pieces(lengths_B[cut:]))


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch."""

    users_B: Tensor
    """int64, internal user indices."""
    items_BL: Tensor
    """int64, time order, right-padded with 0."""
    profiles_BAP: Tensor | None = None
    """fp32 teacher targets; rows without a profile hold zeros and are masked."""
    profiled_BA: Tensor | None = None
    """bool, which of ``profiles_BAP`` are real."""
    pieces: tuple[Piece, ...] = ()
    """How the encoder reads the rows; (): in one call."""

    def split(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Items and users, piece by piece."""
        rows = [piece.rows for piece in self.pieces] or [len(self.users_B)]
        widths = [piece.width for piece in self.pieces] or [self.items_BL.shape[1]]
        for items_BL, users_B, width in zip(self.items_BL.split(rows), self.users_B.split(rows), widths, strict=True):
            yield items_BL[:, :width], users_B

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, from where a GPU copies while it computes."""
        return self._each(lambda t: t.pin_memory())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on another device."""
        return self._each(lambda t: t.to(device, non_blocking=non_blocking))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(change(self.users_B), change(self.items_BL),
                     None if self.profiles_BAP is None else change(self.profiles_BAP),
                     None if self.profiled_BA is None else change(self.profiled_BA), self.pieces)
