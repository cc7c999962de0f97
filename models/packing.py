"""Several short sequences in one row: what a transformer reads while it trains holds next to no padding.

Legend: B sequences, X places of the padded batch end to end, T its items, R packed rows, W their width, U runs of
sequences of one length.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.matmul import ROWS
from models.ragged import offsets_of


class Packing(NamedTuple):
    """Where each real position of a padded batch lies in R rows of width W, a multiple of ``matmul.ROWS``."""

    source_RW: Tensor
    """int64 places in the padded batch; X at padding."""
    places_X: Tensor
    """int64, the other way round; 0 at padding."""
    segments_RW: Tensor
    """int64, from 1: equal for positions of one sequence; 0 at padding."""
    lengths_RW: Tensor
    """int64, items of the position's sequence; 0 at padding."""
    from_end_RW: Tensor
    """int64, steps until the sequence's last item; 0 at padding."""

    def pack(self, padded_X: Tensor) -> Tensor:
        """[R, W] of what stands at each real position; 0 at padding."""
        return torch.cat([padded_X, padded_X.new_zeros(1)]).take(self.source_RW)

    def same_sequence(self) -> Tensor:
        """bool [R, W, W]: whether two positions belong together; padding belongs with padding."""
        return self.segments_RW.unsqueeze(2) == self.segments_RW.unsqueeze(1)


def pack(lengths: list[np.ndarray], widths: list[int], device: torch.device) -> Packing:
    """Lay out the sequences of some padded pieces, the longest first, each in the first row that has room.

    Args:
        lengths: items of each piece's sequences, int64; they stand first in their rows, padding behind them.
        widths: of the pieces; one may be wider than the longest of its sequences.
        device: where the result is used.
    """
    lengths_B = np.concatenate(lengths)
    rows = [len(piece) for piece in lengths]
    starts = offsets_of(np.multiply(rows, widths))
    first_B = np.concatenate([start + width * np.arange(count)
                              for start, width, count in zip(starts[:-1], widths, rows, strict=True)])
    width = max(-(-int(lengths_B.max(initial=1)) // ROWS), 1) * ROWS
    place_B, used = _first_fit(lengths_B, width)
    owner_T = np.repeat(np.arange(len(lengths_B)), lengths_B)
    step_T = np.arange(len(owner_T)) - np.repeat(np.cumsum(lengths_B) - lengths_B, lengths_B)
    source_T, place_T = first_B[owner_T] + step_T, place_B[owner_T] + step_T
    flat = np.zeros((4, max(used, 1) * width), np.int64)
    flat[0] = starts[-1]
    flat[:, place_T] = source_T, owner_T + 1, lengths_B[owner_T], lengths_B[owner_T] - 1 - step_T
    places_X = np.zeros(starts[-1], np.int64)
    places_X[source_T] = place_T
    source_RW, *others = torch.from_numpy(flat.reshape(4, -1, width)).to(device, non_blocking=True)
    return Packing(source_RW, torch.from_numpy(places_X).to(device, non_blocking=True), *others)


def _first_fit(lengths_B: np.ndarray, width: int) -> tuple[np.ndarray, int]:
    """Where each sequence begins in rows laid end to end, and how many rows there are.

    Sequences of one length are placed together, as many as a row takes: the loops are over runs, not over sequences.
    """
    order_B = np.argsort(-lengths_B, kind="stable")
    distinct, counts = np.unique(lengths_B[lengths_B > 0], return_counts=True)
    free: list[int] = []
    runs: list[tuple[int, int, int]] = []
    for length, left in zip(distinct[::-1].tolist(), counts[::-1].tolist(), strict=True):
        row = 0
        while left:
            if row == len(free):
                free.append(width)
            if fitting := min(free[row] // length, left):
                runs.append(((row + 1) * width - free[row], length, fitting))
                free[row] -= fitting * length
                left -= fitting
            row += 1
    first_U, length_U, fitting_U = np.array(runs, np.int64).reshape(-1, 3).T
    nth = np.arange(fitting_U.sum()) - np.repeat(np.cumsum(fitting_U) - fitting_U, fitting_U)
    place_B = np.zeros(len(lengths_B), np.int64)
    place_B[order_B[: len(nth)]] = np.repeat(first_U, fitting_U) + nth * np.repeat(length_U, fitting_U)
    return place_B, len(free)
