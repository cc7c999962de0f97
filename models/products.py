"""Exact ranks and recommendations where a score is an inner product: fast passes in low precision, doubts settled.

The score of a user and an item is the inner product of their fp32 vectors in double precision, summed in a fixed
order, so it depends on no block size. A pass over tiles of users × items computes it roughly, with a known bound on
the error; whatever lies within the bound of a threshold is computed again, exactly.

Legend: N users, B users of a tile, V catalogue, C items of a tile, D vector width, P pairs, K list length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from models.matmul import by_onednn, product

_WORD = 8
"""Bytes of an int64: so many truth values are counted at once."""
MAX_ITEMS = 255 * _WORD
"""Items of a tile, at most: no byte of a word's sum may overflow."""
TILE_USERS, TILE_ITEMS = 256, MAX_ITEMS
"""Their scores, 2 MB, stay in a core's caches."""
_EXACT_PAIRS = 1 << 16
"""Pairs whose exact scores are made at once."""
FP32_ROUNDING, BF16_ROUNDING = 2.0**-24, 2.0**-8
"""Of one operation in fp32; of both factors of a product in bf16."""
BF16_ERROR = 1.05 * BF16_ROUNDING
"""How far a product of two vectors of length 1 may be off where both are rounded to bf16 and sums are fp32."""


@dataclass(frozen=True)
class Catalogue:
    """Item vectors and the order of items with equal scores."""

    items_VD: Tensor
    """fp32, contiguous, row i - 1 = item i."""
    place_V: np.ndarray
    """int64, places among equal scores."""
    norms_V: np.ndarray = field(init=False)
    """fp32 lengths, rounded up."""

    def __post_init__(self) -> None:
        norms_V = torch.linalg.vector_norm(self.items_VD, dim=1).numpy() * np.float32(1 + 1e-6)
        object.__setattr__(self, "norms_V", norms_V)

    def __len__(self) -> int:
        return len(self.items_VD)

    @cached_property
    def rounded_VD(self) -> Tensor:
        """The item vectors in bf16, made when first asked for."""
        return self.items_VD.bfloat16()


def exact_scores(states_ND: Tensor, items_VD: Tensor, rows_P: np.ndarray, columns_P: np.ndarray) -> np.ndarray:
    """float64 inner products of chosen pairs; each is a pure function of its two vectors."""
    scores_P = np.empty(len(rows_P))
    for start in range(0, len(rows_P), _EXACT_PAIRS):
        part = slice(start, start + _EXACT_PAIRS)
        states_PD = states_ND[torch.from_numpy(rows_P[part])].double()
        terms_PD = states_PD.mul_(items_VD[torch.from_numpy(columns_P[part])])
        while terms_PD.shape[1] > 1:  # pairwise: the order of the additions is the same for any number of pairs
            half = terms_PD.shape[1] // 2
            folded_PD = terms_PD[:, :half] + terms_PD[:, half : 2 * half]
            terms_PD = folded_PD if terms_PD.shape[1] == 2 * half else torch.cat([folded_PD, terms_PD[:, -1:]], 1)
        scores_P[part] = terms_PD[:, 0].numpy()
    return scores_P


def fp32_scores(states_ND: Tensor, items_VD: Tensor, rows_P: np.ndarray, columns_P: np.ndarray) -> np.ndarray:
    """float32 inner products of chosen pairs, as exact as those of a tile."""
    products_PD = states_ND[torch.from_numpy(rows_P)].mul_(items_VD[torch.from_numpy(columns_P)])
    scores_P: np.ndarray = products_PD.sum(1).numpy()
    return scores_P


def beats(scores_P: np.ndarray, places_P: np.ndarray, bars_P: np.ndarray, bar_places_P: np.ndarray) -> np.ndarray:
    """Whether an item with that score and place stands before one with the other: bool [P]."""
    beaten: np.ndarray = (scores_P > bars_P) | ((scores_P == bars_P) & (places_P < bar_places_P))
    return beaten


@dataclass(frozen=True)
class Seen:
    """Distinct pairs of users and items that are not recommended, in any order."""

    rows_P: np.ndarray
    """int64, users."""
    columns_P: np.ndarray
    """int64, items - 1."""


class Tiles:
    """A pass over tiles of users × items: fp32 scores, how far they may be off, and the seen pairs of each tile."""

    def __init__(self, states_ND: Tensor, catalogue: Catalogue, seen: Seen, tile_users: int, tile_items: int) -> None:
        self.states_ND, self.catalogue = states_ND, catalogue
        self.users, self.items = tile_users, min(tile_items, MAX_ITEMS, len(catalogue))
        self._scores = torch.empty(self.users * self.items)
        norms_N = torch.linalg.vector_norm(states_ND, dim=1).double().numpy()
        self._slack_N = fp32_error(states_ND.shape[1]) * norms_N
        place_P = seen.columns_P // self.items * len(states_ND) + seen.rows_P
        order_P = np.argsort(place_P, kind="stable")
        self._place_P, self._rows_P, self._columns_P = place_P[order_P], seen.rows_P[order_P], seen.columns_P[order_P]

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Items outside, so that a chunk of them stays in cache while the users pass."""
        for start in range(0, len(self.catalogue), self.items):
            items = slice(start, min(start + self.items, len(self.catalogue)))
            for first in range(0, len(self.states_ND), self.users):
                yield slice(first, min(first + self.users, len(self.states_ND))), items

    def scores_BC(self, users: slice, items: slice) -> np.ndarray:
        """fp32, valid until the next call."""
        shape = (users.stop - users.start, items.stop - items.start)
        states_BD, items_CD = self.states_ND[users], self.catalogue.items_VD[items]
        if by_onednn(states_BD.device) and shape[0] == self.users:  # a shape that comes again
            scores_BC = product(states_BD, items_CD)
        else:
            scores_BC = self._scores[: shape[0] * shape[1]].view(shape)
            torch.mm(states_BD, items_CD.T, out=scores_BC)
        found: np.ndarray = scores_BC.numpy()
        return found

    def slack_N(self, users: slice, items: slice) -> np.ndarray:
        """float64, how far scores of a tile may be from the exact ones."""
        slack: np.ndarray = self._slack_N[users] * float(self.catalogue.norms_V[items].max())
        return slack

    def all_seen(self) -> tuple[np.ndarray, np.ndarray]:
        """Users and columns (items - 1) of every seen pair."""
        return self._rows_P, self._columns_P

    def seen(self, users: slice, items: slice) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of a tile's seen pairs."""
        base = items.start // self.items * len(self.states_ND)
        low, high = np.searchsorted(self._place_P, [base + users.start, base + users.stop])
        return self._rows_P[low:high] - users.start, self._columns_P[low:high] - items.start


class ItemsAhead:
    """How many items stand before each user's target, in all and among the seen ones."""

    def __init__(self, tiles: Tiles, targets_N: np.ndarray) -> None:
        """``targets_N``: int64, items - 1. They are no seen pairs."""
        states_ND, catalogue = tiles.states_ND, tiles.catalogue
        self._tiles = tiles
        self._bars_N = exact_scores(states_ND, catalogue.items_VD, np.arange(len(states_ND)), targets_N)
        self._bar_places_N = catalogue.place_V[targets_N]
        self._possible_N = np.zeros(len(states_ND), np.int64)
        self._possible_seen_N = np.zeros_like(self._possible_N)
        self._doubts, self._seen_doubts = Pairs(), Pairs()
        width = -(-tiles.items // _WORD) * _WORD
        self._reaches, self._passes = (np.zeros((tiles.users, width), np.bool_) for _ in range(2))

    def add(self, scores_BC: np.ndarray, users: slice, items: slice) -> None:
        """Take in a tile."""
        rows, columns = scores_BC.shape
        bars_B, slack_B = self._bars_N[users], self._tiles.slack_N(users, items)
        reaches, passes = self._reaches[:rows], self._passes[:rows]
        if columns < reaches.shape[1]:  # the last chunk, or one that fills no whole words
            reaches[:, columns:] = passes[:, columns:] = False
        np.greater_equal(scores_BC, _below(bars_B - slack_B)[:, None], out=reaches[:, :columns])
        np.greater(scores_BC, _above(bars_B + slack_B)[:, None], out=passes[:, :columns])
        self._possible_N[users] += _count(reaches)
        seen_rows, seen_columns = self._tiles.seen(users, items)
        reached = seen_rows[reaches[seen_rows, seen_columns]]
        self._possible_seen_N[users] += np.bincount(reached, minlength=rows)
        np.logical_xor(reaches, passes, out=passes)
        doubtful = np.flatnonzero(passes)
        doubt_rows, doubt_columns = np.divmod(doubtful, passes.shape[1])
        self._doubts.add(doubt_rows + users.start, doubt_columns + items.start)
        seen_doubts = np.flatnonzero(passes[seen_rows, seen_columns])
        self._seen_doubts.add(seen_rows[seen_doubts] + users.start, seen_columns[seen_doubts] + items.start)
        if len(self._doubts) >= _EXACT_PAIRS:
            self._settle()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 [N] each: items before the target, seen ones among them."""
        self._settle()
        return self._possible_N, self._possible_seen_N

    def _settle(self) -> None:
        """Take back what stands behind the target after all."""
        catalogue = self._tiles.catalogue
        for doubts, possible_N in ((self._doubts, self._possible_N), (self._seen_doubts, self._possible_seen_N)):
            rows_P, columns_P = doubts.take()
            scores_P = exact_scores(self._tiles.states_ND, catalogue.items_VD, rows_P, columns_P)
            places_P = catalogue.place_V[columns_P]
            behind_P = ~beats(scores_P, places_P, self._bars_N[rows_P], self._bar_places_N[rows_P])
            possible_N -= np.bincount(rows_P[behind_P], minlength=len(possible_N))


class Pairs:
    """Pairs of users and columns, gathered tile by tile."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []
        self._columns: list[np.ndarray] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, rows_P: np.ndarray, columns_P: np.ndarray) -> None:
        self._rows.append(rows_P)
        self._columns.append(columns_P)
        self._count += len(rows_P)

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Users and columns of the pairs so far, int64; none are left here."""
        none = np.zeros(0, np.int64)
        found = np.concatenate([none, *self._rows]), np.concatenate([none, *self._columns])
        self._rows, self._columns, self._count = [], [], 0
        return found


def _count(mask: np.ndarray) -> np.ndarray:
    """True values of each row, int64; the width is whole words."""
    words: np.ndarray = mask.view(np.int64).sum(1)
    counts: np.ndarray = words.view(np.uint8).reshape(-1, _WORD).sum(1, dtype=np.int64)
    return counts


def _below(values: np.ndarray) -> np.ndarray:
    """float32 values that are no larger."""
    return np.nextafter(values.astype(np.float32), np.float32(-np.inf))


def _above(values: np.ndarray) -> np.ndarray:
    return np.nextafter(values.astype(np.float32), np.float32(np.inf))


def fp32_error(width: int) -> float:
    """How far an fp32 product of vectors of this width and length 1 may be off, as torch is set."""
    rounding = FP32_ROUNDING if torch.get_float32_matmul_precision() == "highest" else BF16_ROUNDING
    # A sum of D products in any order, fused or not (Higham, Accuracy and Stability, §3.1), with room to spare.
    return 2 * (width + 2) * rounding
