"""Each user's best scores so far, from tiles of users × items.

Legend: N users, B users of a block, P pairs, R candidates kept.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Scored = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows of a block, columns of the catalogue and scores."""


class Candidates:
    """The R best pairs of every user. Added pairs wait until there are enough of them to be worth a merge."""

    def __init__(self, count: int, keep: int, block: int) -> None:
        """``count``: N; ``keep``: R; ``block``: users that are added together, from a multiple of it on."""
        self._block = block
        self._values_NR = torch.full((count, keep), -torch.inf)
        self._columns_NR = torch.zeros((count, keep), dtype=torch.int64)
        self._waiting: dict[int, list[Scored]] = {start: [] for start in range(0, count, block)}

    @property
    def keep(self) -> int:
        """R."""
        return self._values_NR.shape[1]

    def bars_B(self, users: slice) -> np.ndarray:
        """fp32, what a score must exceed to be a candidate; -inf while there are fewer than R."""
        bars_B: np.ndarray = self._values_NR[users, -1].numpy()
        return bars_B

    def start(self, users: slice, values_Br: Tensor, columns_Br: Tensor) -> None:
        """Begin a block with at most R pairs of every user, best first."""
        self._values_NR[users, : values_Br.shape[1]] = values_Br
        self._columns_NR[users, : values_Br.shape[1]] = columns_Br

    def add(self, users: slice, rows_P: np.ndarray, columns_P: np.ndarray, values_P: np.ndarray) -> None:
        """Take in pairs of a block; ``rows_P`` counts from its first user."""
        waiting = self._waiting[users.start]
        waiting.append((rows_P, columns_P, values_P))
        if sum(len(rows) for rows, _, _ in waiting) >= (users.stop - users.start) * self.keep:
            self._merge(users.start)

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores fp32 and columns int64 [N, R], best first; where there are fewer, a score of -inf."""
        for start, waiting in self._waiting.items():
            if waiting:
                self._merge(start)
        return self._values_NR.numpy(), self._columns_NR.numpy()

    def _merge(self, start: int) -> None:
        """Bring the pairs that wait into the block's lists."""
        rows_P, columns_P, values_P = (np.concatenate(column) for column in zip(*self._waiting[start], strict=True))
        self._waiting[start] = []
        order = np.argsort(rows_P, kind="stable")
        rows_P, columns_P, values_P = rows_P[order], columns_P[order], values_P[order]
        users = slice(start, min(start + self._block, len(self._values_NR)))
        place_P = place_in_row(rows_P)
        more_BP = torch.full((users.stop - users.start, int(place_P.max(initial=-1)) + 1), -torch.inf)
        columns_BP = torch.zeros(more_BP.shape, dtype=torch.int64)
        more_BP.numpy()[rows_P, place_P], columns_BP.numpy()[rows_P, place_P] = values_P, columns_P
        values_BR, at_BR = torch.cat([self._values_NR[users], more_BP], 1).topk(self.keep)
        self._columns_NR[users] = torch.cat([self._columns_NR[users], columns_BP], 1).gather(1, at_BR)
        self._values_NR[users] = values_BR


def place_in_row(rows_P: np.ndarray) -> np.ndarray:
    """0, 1, … within each run of equal rows."""
    starts = np.flatnonzero(np.diff(rows_P, prepend=-1))
    return np.arange(len(rows_P)) - np.repeat(starts, np.diff(starts, append=len(rows_P)))
