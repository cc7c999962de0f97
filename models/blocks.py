"""Ranking by any scorer: blocks of users, chunks of items, with no idea of how a score comes about.

The target's own score is read out of the scores of its chunk, never computed apart, because two products of different
shape may round differently: users are grouped by the chunk of their target, and that chunk is scored first.

Legend: N cases, B users of a block, C items of a chunk, K list length.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from models.ordering import NOTHING, items_of, merge_best, tie_order
from models.scoring import Ranks, Scorer, not_finite
from models.sequences import Cases, Sequences, flat_histories


def rank_blocks(scorer: Scorer, cases: Cases, batch_users: int, item_chunk: int, top_k: int, tie_seed: int) -> Ranks:
    """See :func:`models.ranking.rank_users`."""
    count = len(cases)
    out = Ranks(np.zeros(count, np.int32), np.zeros(count, np.int32), np.zeros((count, top_k), np.int32),
                np.zeros((count, top_k), np.int32))
    order = tie_order(scorer.num_items, tie_seed)
    item_at = torch.from_numpy(np.argsort(order) + 1)
    with torch.inference_mode():
        for indices in _blocks(cases, batch_users, item_chunk):
            block = _rank_block(scorer, cases, indices, torch.from_numpy(order), item_chunk, top_k)
            out.rank[indices] = (1 + block.better_B - block.better_seen_B).cpu()
            out.rank_unfiltered[indices] = (1 + block.better_B).cpu()
            out.top[indices] = items_of(block.top_BK.cpu(), item_at)
            out.top_unfiltered[indices] = items_of(block.top_unfiltered_BK.cpu(), item_at)
    return out


def _blocks(cases: Cases, batch_users: int, item_chunk: int) -> Iterator[np.ndarray]:
    """Case indices of each block: targets of one chunk, histories of similar length."""
    home = (cases.targets.astype(np.int64) - 1) // item_chunk
    order = np.lexsort((cases.histories.lengths, home))
    for group in np.split(order, np.flatnonzero(np.diff(home[order])) + 1):
        for start in range(0, len(group), batch_users):
            yield group[start : start + batch_users]


def _rank_block(scorer: Scorer, cases: Cases, indices: np.ndarray, place_V: Tensor, item_chunk: int,
                top_k: int) -> _Block:
    """All chunks for one block of users whose targets lie in one chunk; that chunk goes first."""
    targets_B = cases.targets[indices].astype(np.int64)
    seen_rows, seen_items = _seen(cases.histories, indices, targets_B)
    home = 1 + (int(targets_B[0]) - 1) // item_chunk * item_chunk
    starts = [home, *(s for s in range(1, scorer.num_items + 1, item_chunk) if s != home)]
    states = scorer.states(cases.histories, indices)
    block: _Block | None = None
    for start in starts:
        stop = min(start + item_chunk, scorer.num_items + 1)
        scores_BC = scorer.scores(states, start, stop)
        if not torch.isfinite(scores_BC.sum()):
            _require_finite(scores_BC, cases.users[indices], start)
        place_C = place_V[start - 1 : stop - 1].to(scores_BC.device)
        if block is None:
            block = _Block(scores_BC, place_C, torch.from_numpy(targets_B - start), top_k)
        low, high = np.searchsorted(seen_items, [start, stop])
        seen_S = torch.from_numpy(np.stack([seen_rows[low:high], seen_items[low:high] - start]))
        block.add(scores_BC, place_C, seen_S.to(scores_BC.device), own=start == home)
    assert block is not None
    return block


class _Block:
    """Running results of one block of users. ``bar``: the target's score and its place among equal scores."""

    def __init__(self, scores_BC: Tensor, place_C: Tensor, target_column_B: Tensor, top_k: int) -> None:
        """From the chunk that holds the targets."""
        device, column_B1 = scores_BC.device, target_column_B.to(scores_BC.device)[:, None]
        self._bar_B1 = scores_BC.gather(1, column_B1)
        self._bar_place_B1 = place_C[column_B1]
        self.better_B = torch.zeros(len(column_B1), dtype=torch.int64, device=device)
        """Items that beat the target."""
        self.better_seen_B = torch.zeros_like(self.better_B)
        """Seen ones among them."""
        self.top_BK = torch.full((len(column_B1), top_k), NOTHING, device=device)
        """Keys of the best items (:func:`models.ordering.keys`), best first, seen ones removed."""
        self.top_unfiltered_BK = self.top_BK

    def add(self, scores_BC: Tensor, place_C: Tensor, seen_S: Tensor, own: bool) -> None:
        """Take in a chunk's scores, which are overwritten.

        Args:
            scores_BC: fp32.
            place_C: the items' places among equal scores.
            seen_S: int64 [2, S], rows and columns of seen items other than the target.
            own: whether the target itself is in the chunk.
        """
        self.better_B += self._count_better(scores_BC, place_C, own)
        row_S, column_S = seen_S
        score_S, bar_S = scores_BC[row_S, column_S], self._bar_B1[row_S, 0]
        earlier_S = place_C[column_S] < self._bar_place_B1[row_S, 0]
        better_S = (score_S > bar_S) | ((score_S == bar_S) & earlier_S)
        self.better_seen_B.index_add_(0, row_S, better_S.to(torch.int64))
        if self.top_BK.shape[1]:
            self.top_unfiltered_BK = merge_best(self.top_unfiltered_BK, scores_BC, place_C)
            scores_BC[row_S, column_S] = -torch.inf
            self.top_BK = merge_best(self.top_BK, scores_BC, place_C)

    def _count_better(self, scores_BC: Tensor, place_C: Tensor, own: bool) -> Tensor:
        """How many items of the chunk beat the target, int64 [B]."""
        sign_BC = (scores_BC - self._bar_B1).sign_()
        surplus_B = sign_BC.sum(1)  # higher minus lower scores
        distinct_B = sign_BC.abs_().sum(1)  # higher plus lower scores
        better_B = ((distinct_B + surplus_B) / 2).to(torch.int64)
        tied = (distinct_B < scores_BC.shape[1] - own).nonzero()[:, 0]
        if len(tied):
            earlier = (scores_BC[tied] == self._bar_B1[tied]) & (place_C < self._bar_place_B1[tied])
            better_B[tied] += earlier.sum(1)
        return better_B


def _seen(histories: Sequences, indices: np.ndarray, targets_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct (row of the block, item) pairs of the histories without the targets, int64, sorted by item."""
    rows, items, _ = flat_histories(histories, indices)
    others = items != targets_B[rows]
    pairs = np.unique(items[others] * len(indices) + rows[others])
    return pairs % len(indices), pairs // len(indices)


def _require_finite(scores_BC: Tensor, users: np.ndarray, start: int) -> None:
    """Raise if a score is NaN or infinite (a sum may overflow though every score is finite)."""
    wrong = (~torch.isfinite(scores_BC)).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        not_finite(int(users[row]), start + column, float(scores_BC[row, column]))
