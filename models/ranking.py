"""Exact full ranking over the whole catalogue, in blocks of users and chunks of items.

Legend: N cases, B users of a block, V catalogue, C items of a chunk, K list length, D state width.

An item beats the target when its score is higher, or equal and earlier in a seeded order of the items. The target's
own score is read out of the matrix product over its chunk, never computed apart, because two products of different
shape may round differently: users are grouped by the chunk of their target, and that chunk is scored first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, NoReturn, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from configs.errors import DataError, TrainingError, illegal
from models.best import Best
from models.ordering import NOTHING, items_of, merge_best, tie_order
from models.products import TILE_ITEMS, TILE_USERS, Ahead, Catalogue, Seen, Tiles
from models.protocols import SequenceEncoder
from models.sequences import Cases, Sequences

SHARD_USERS = 4096
"""Users whose states are held at once."""
_ENCODE_POSITIONS, _LEAST_ROWS = 2048, 64
"""Positions encoded at once, padding counted, and sequences at once at least: of similar length, so that short ones are
not padded to a long one's."""


class Scorer(Protocol):
    """Anything that scores items for users: a trained encoder or a baseline."""

    @property
    def num_items(self) -> int:
        """Size of the catalogue; items are 1…num_items."""

    def states(self, histories: Sequences, indices: np.ndarray) -> Any:
        """What :meth:`scores` needs of the users at ``indices``, in that order."""

    def scores(self, states: Any, start: int, stop: int) -> Tensor:
        """Finite fp32 scores [B, stop - start] of items start…stop-1 (1-based ids), in a tensor of the caller's."""


@dataclass(frozen=True)
class Ranks:
    """Where each target stands and what would be recommended."""

    rank: np.ndarray
    """int32 [N], 1-based, the user's seen items removed (never the target, even if seen)."""
    rank_unfiltered: np.ndarray
    """int32 [N], 1-based, among all items."""
    top: np.ndarray
    """int32 [N, K], best first, seen items removed (never the target); 0 where no item is left."""
    top_unfiltered: np.ndarray
    """int32 [N, K], best first, among all items; 0 beyond the catalogue's end."""


def rank_users(scorer: Scorer, cases: Cases, *, batch_users: int = 256, item_chunk: int = 4096, top_k: int = 20,
               tie_seed: int = 0) -> Ranks:
    """Rank every case's target over the whole catalogue, with and without the user's seen items.

    Args:
        scorer: gives the scores.
        cases: histories (what counts as seen) and targets.
        batch_users: users scored at once, at most.
        item_chunk: items scored at once, at most; no more than batch_users × item_chunk scores exist at a time.
        top_k: K; 0 for ranks only.
        tie_seed: seed of the order of items with equal scores.

    Returns:
        Ranks, aligned with ``cases``. An encoder's on the CPU are exact (:mod:`models.products`) and the same for every
        size; any other scorer's are so up to the rounding of products of different shapes.

    Raises:
        DataError: a target or a history item outside 1…num_items, or an illegal size.
        TrainingError: a score is NaN or infinite.
    """
    _check(cases, scorer.num_items, batch_users, item_chunk, top_k)
    if isinstance(scorer, EncoderScorer) and scorer.items_VD.device.type == "cpu":
        return _rank_products(scorer, cases, min(batch_users, TILE_USERS), min(item_chunk, TILE_ITEMS), top_k, tie_seed)
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


def recommend(scorer: EncoderScorer, histories: Sequences, top_k: int, *, filter_seen: bool = True,
              precision: Literal["fp32", "bf16"] = "fp32", tie_seed: int = 0) -> np.ndarray:
    """The best items after each history, int32 [N, top_k], best first; 0 where no item is left.

    Args:
        scorer: of an encoder on the CPU.
        histories: what each user had, in time order.
        top_k: items per user.
        filter_seen: leave out what the user had.
        precision: of the pass that finds candidates; they are ordered exactly, so the lists are the same. bf16 is
            faster where the processor has matrix units for it.
        tie_seed: seed of the order of items with equal scores.

    Raises:
        DataError: a history item outside 1…num_items, or ``top_k`` below 1.
        TrainingError: a state or an item vector is NaN or infinite.
    """
    if top_k < 1:
        raise DataError(illegal("top_k", top_k, "1 or more"))
    nobody = Cases(np.arange(len(histories)), histories, np.zeros(0, np.int32))
    _check(nobody, scorer.num_items, 1, 1, top_k)
    catalogue = Catalogue(scorer.items_VD, tie_order(scorer.num_items, tie_seed))
    lists = np.zeros((len(histories), top_k), np.int32)
    with torch.inference_mode():
        for start in range(0, len(histories), SHARD_USERS):
            indices = np.arange(start, min(start + SHARD_USERS, len(histories)))
            states_ND = _finite_states(scorer, nobody, indices)
            no_pairs = np.zeros(0, np.int64)
            seen = _seen_pairs(histories, indices, None) if filter_seen else Seen(no_pairs, no_pairs)
            tiles = Tiles(states_ND, catalogue, seen, TILE_USERS, TILE_ITEMS)
            best = Best(tiles, top_k)
            for users, items in tiles:
                if precision == "bf16" and items.start:
                    best.add_rough(users, items)
                else:
                    best.add(tiles.scores_BC(users, items), users, items)
            lists[indices] = best.unseen() + 1
    return lists


def _rank_products(scorer: EncoderScorer, cases: Cases, tile_users: int, tile_items: int, top_k: int, tie_seed: int
                   ) -> Ranks:
    catalogue = Catalogue(scorer.items_VD, tie_order(scorer.num_items, tie_seed))
    parts = [_no_ranks(top_k)]
    with torch.inference_mode():
        for start in range(0, len(cases), SHARD_USERS):
            indices = np.arange(start, min(start + SHARD_USERS, len(cases)))
            targets_N = cases.targets[indices].astype(np.int64)
            seen = _seen_pairs(cases.histories, indices, targets_N)
            tiles = Tiles(_finite_states(scorer, cases, indices), catalogue, seen, tile_users, tile_items)
            ahead, best = Ahead(tiles, targets_N - 1), Best(tiles, top_k) if top_k else None
            for users, items in tiles:
                scores_BC = tiles.scores_BC(users, items)
                ahead.add(scores_BC, users, items)
                if best is not None:
                    best.add(scores_BC, users, items)
            before_N, seen_before_N = ahead.result()
            tops = [np.zeros((len(indices), 0), np.int32)] * 2
            if best is not None:
                unseen = best.unseen()
                tops = [(1 + lists).astype(np.int32) for lists in (unseen, best.among_all(unseen))]
            parts.append(Ranks((1 + before_N - seen_before_N).astype(np.int32), (1 + before_N).astype(np.int32), *tops))
    return Ranks(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Ranks)))


def _no_ranks(top_k: int) -> Ranks:
    none, nothing = np.zeros(0, np.int32), np.zeros((0, top_k), np.int32)
    return Ranks(none, none, nothing, nothing)


def _seen_pairs(histories: Sequences, indices: np.ndarray, targets_N: np.ndarray | None) -> Seen:
    """Distinct pairs of (place in ``indices``, item - 1), the targets left out."""
    rows, items, _ = flat_histories(histories, indices)
    if targets_N is not None:
        others = items != targets_N[rows]
        rows, items = rows[others], items[others]
    width = int(items.max(initial=0)) + 1
    pairs = np.unique(rows * width + items)
    return Seen(pairs // width, pairs % width - 1)


def _finite_states(scorer: EncoderScorer, cases: Cases, indices: np.ndarray) -> Tensor:
    """The users' states, [N, D].

    Raises:
        TrainingError: scores of theirs would not be finite.
    """
    states_ND = scorer.states(cases.histories, indices)
    norms_N = torch.linalg.vector_norm(states_ND, dim=1)
    norms_V = torch.linalg.vector_norm(scorer.items_VD, dim=1)
    if not torch.isfinite(norms_N.amax() * norms_V.amax()):
        row, column = ((-norms).nan_to_num(-torch.inf).argmin() for norms in (norms_N, norms_V))
        _not_finite(int(cases.users[indices[row]]), int(column) + 1, float(norms_N[row] * norms_V[column]))
    return states_ND


def flat_histories(histories: Sequences, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row (place in ``indices``), item and steps back from the history's end of every interaction, in time order."""
    lengths = histories.lengths[indices]
    rows = np.repeat(np.arange(len(indices)), lengths)
    steps_back = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(rows)) - 1
    items = histories.values[np.repeat(histories.offsets[1:][indices], lengths) - steps_back - 1]
    return rows, items.astype(np.int64), steps_back


class EncoderScorer:
    """Scores of a trained sequence encoder: user state times item weights, in fp32.

    The item weights are read when the scorer is made: make a new one after a training step.
    """

    def __init__(self, encoder: SequenceEncoder, device: torch.device | str = "cpu") -> None:
        self.num_items = encoder.num_items
        self._encoder = encoder
        self._module = cast(nn.Module, encoder).to(device)
        self._device = torch.device(device)
        with torch.inference_mode():
            self.items_VD = encoder.item_weights_VD().detach().float().contiguous()

    def states(self, histories: Sequences, indices: np.ndarray) -> Tensor:
        """fp32 [B, D], encoded in batches of similar length, without dropout."""
        states_BD = torch.empty(len(indices), self.items_VD.shape[1], device=self._device)
        by_length = np.argsort(histories.lengths[indices], kind="stable")
        was_training = self._module.training
        self._module.eval()
        try:
            with torch.inference_mode():
                stop = len(by_length)
                while stop:  # from the longest on: the first of a batch tells its width
                    longest = int(histories.lengths_of(indices[by_length[stop - 1 : stop]])[0])
                    width = max(min(longest, self._encoder.max_length), 1)
                    start = max(stop - max(_ENCODE_POSITIONS // width, _LEAST_ROWS), 0)
                    rows, stop = by_length[start:stop], start
                    items_BL = torch.from_numpy(histories.padded(indices[rows], self._encoder.max_length))
                    encoded_BD = self._encoder.user_states_BD(items_BL.to(self._device)).float()
                    states_BD[torch.from_numpy(rows).to(self._device)] = encoded_BD
        finally:
            self._module.train(was_training)
        return states_BD

    def scores(self, states: Tensor, start: int, stop: int) -> Tensor:
        """fp32 [B, stop - start]."""
        return states @ self.items_VD[start - 1 : stop - 1].T


def _check(cases: Cases, num_items: int, batch_users: int, item_chunk: int, top_k: int) -> None:
    for name, value, least in (("batch_users", batch_users, 1), ("item_chunk", item_chunk, 1), ("top_k", top_k, 0)):
        if value < least:
            raise DataError(illegal(name, value, f"{least} or more"))
    for name, items in (("target", cases.targets), ("history item", cases.histories.values)):
        if len(items) and not 1 <= items.min() <= items.max() <= num_items:
            wrong = items.min() if items.min() < 1 else items.max()
            raise DataError(illegal(name, int(wrong), f"1…{num_items}", "unknown items have no place in a case"))


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
        _not_finite(int(users[row]), start + column, float(scores_BC[row, column]))


def _not_finite(user: int, item: int, score: float) -> NoReturn:
    raise TrainingError(f"score of user {user}, item {item}: got {score}; legal: finite numbers; the model's weights "
                        "are damaged or its training diverged: lower the learning rate and train again")
