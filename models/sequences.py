"""Many sequences as one flat array plus offsets, and the padded batches cut from them.

Legend: N users, B batch, L positions, A profiles per user, P profile width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(x) for x in lists], out=offsets[1:])
        return cls(np.array([v for x in lists for v in x], np.int32), offsets)

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

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on another device."""
        move = [None if t is None else t.to(device, non_blocking=non_blocking)
                for t in (self.users_B, self.items_BL, self.profiles_BAP, self.profiled_BA)]
        assert move[0] is not None and move[1] is not None
        return Batch(move[0], move[1], move[2], move[3])
