"""Exact full ranking over the whole catalogue.

Legend: N cases, V catalogue, K list length, D state width.

An item beats the target when its score is higher, or equal and earlier in a seeded order of the items. Scores of an
encoder on the CPU are inner products and ranked as such, shard by shard of the users (:mod:`models.products`); any
other scorer's go through :mod:`models.blocks`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from configs.errors import DataError, illegal
from models import few_users
from models.best import BestItems, put_best
from models.blocks import rank_blocks
from models.products import TILE_ITEMS, TILE_USERS, Catalogue, ItemsAhead, Seen, Tiles, exact_scores
from models.rough_scores import RoughScores
from models.scoring import EncoderScorer, Ranks, Scorer, not_finite
from models.sequences import Cases, Sequences, flat_histories
from models.threads import on_threads

SHARD_USERS = 4096
"""Users whose states are held at once, by each thread."""
Found = TypeVar("Found")


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
    return rank_blocks(scorer, cases, batch_users, item_chunk, top_k, tie_seed)


class Lists(NamedTuple):
    """The best items of each history, best first."""

    items_NK: np.ndarray
    """int32; 0 where no item is left."""
    scores_NK: np.ndarray
    """float64 inner products of the user's and the items' vectors; NaN where no item is left."""


@dataclass(frozen=True)
class Choice:
    """The part of a catalogue from which is recommended; made once, it serves any number of calls."""

    items_C: np.ndarray
    """int64, ascending, 1…n."""
    catalogue: Catalogue
    """Of these items alone."""

    @classmethod
    def of(cls, scorer: EncoderScorer, items_C: np.ndarray, tie_seed: int = 0) -> Choice:
        """Copies the vectors of the chosen items (int64, ascending, 1…n)."""
        whole = scorer.catalogue(tie_seed)
        return cls(items_C, Catalogue(whole.items_VD[torch.from_numpy(items_C - 1)], whole.place_V[items_C - 1]))


def recommend(scorer: EncoderScorer, histories: Sequences, top_k: int, *, filter_seen: bool = True,
              precision: Literal["fp32", "bf16"] = "fp32", tie_seed: int = 0, choice: Choice | None = None) -> Lists:
    """The best items after each history.

    Args:
        scorer: of an encoder, which reads the histories on its own device; the lists are made on the CPU.
        histories: what each user had, in time order.
        top_k: items per user.
        filter_seen: leave out what the user had.
        precision: of the pass that finds candidates; they are ordered exactly, so the lists are the same. bf16 pays
            with hundreds of thousands of items (``make bench-rank``).
        tie_seed: seed of the order of items with equal scores.
        choice: recommend these items alone, ordered by the tie seed that it was made with; None: the whole catalogue.

    Raises:
        DataError: a history item outside 1…num_items, or ``top_k`` below 1.
        TrainingError: a state or an item vector is NaN or infinite.
    """
    if top_k < 1:
        raise DataError(illegal("top_k", top_k, "1 or more"))
    nobody = Cases(np.arange(len(histories)), histories, np.zeros(0, np.int32))
    _check(nobody, scorer.num_items, 1, 1, top_k)
    catalogue = scorer.catalogue(tie_seed) if choice is None else choice.catalogue

    def shard(indices: np.ndarray) -> Lists:
        no_pairs = np.zeros(0, np.int64)
        seen = _seen_pairs(histories, indices, None) if filter_seen else Seen(no_pairs, no_pairs)
        if choice is not None:
            seen = _among(seen, choice.items_C)
        states_ND = _finite_states(scorer, catalogue, nobody, indices)
        if few_users.serves(len(states_ND), top_k, catalogue):
            found_NK = few_users.best_of_few(states_ND, catalogue, seen, top_k, precision)
            return _lists(found_NK, states_ND, catalogue, choice)
        tiles = Tiles(states_ND, catalogue, seen, TILE_USERS, TILE_ITEMS)
        best = BestItems(tiles, top_k)
        rough = RoughScores(tiles) if precision == "bf16" else None
        for users, items in tiles:
            if rough is not None and items.start:
                best.add_pairs(*rough.above(best.bars_B(users), users, items), users, items)
            else:
                best.add(tiles.scores_BC(users, items), users, items)
        return _lists(best.unseen(), tiles.states_ND, catalogue, choice)

    nothing = Lists(np.zeros((0, top_k), np.int32), np.zeros((0, top_k)))
    if not len(catalogue):
        return Lists(np.zeros((len(histories), top_k), np.int32), np.full((len(histories), top_k), np.nan))
    parts = [nothing, *_in_shards(scorer, shard, len(histories))]
    return Lists(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def recommend_found(scorer: EncoderScorer, histories: Sequences, top_k: int,
                    search: Callable[[np.ndarray, int], np.ndarray], *, filter_seen: bool = True, tie_seed: int = 0
                    ) -> Lists:
    """:func:`recommend` among the items that a search finds, asked for as many more as the longest history holds.

    Args:
        search: states fp32 [N, D] and a count C → items [N, C], 1…n, 0 where none was found.
    """
    everyone, catalogue = np.arange(len(histories)), scorer.catalogue(tie_seed)
    states_ND = _finite_states(scorer, catalogue, Cases(everyone, histories, np.zeros(0, np.int32)), everyone)
    longest = int(histories.lengths.max(initial=0)) if filter_seen else 0
    found_NC = search(states_ND.numpy(), min(top_k + longest, len(catalogue)))
    rows_P, places_P = np.nonzero(found_NC)
    columns_P = found_NC[rows_P, places_P] - 1
    if filter_seen:
        seen, width = _seen_pairs(histories, everyone, None), len(catalogue)
        new_P = ~np.isin(rows_P * width + columns_P, seen.rows_P * width + seen.columns_P)
        rows_P, columns_P = rows_P[new_P], columns_P[new_P]
    columns_NK = np.full((len(histories), top_k), -1)
    put_best(columns_NK, states_ND, catalogue, rows_P, columns_P)
    return _lists(columns_NK, states_ND, catalogue, None)


def _lists(columns_NK: np.ndarray, states_ND: Tensor, catalogue: Catalogue, choice: Choice | None) -> Lists:
    """Items and scores of columns of the catalogue, -1 where there is none."""
    rows_P, places_P = np.nonzero(columns_NK >= 0)
    columns_P = columns_NK[rows_P, places_P]
    items_NK, scores_NK = np.zeros(columns_NK.shape, np.int32), np.full(columns_NK.shape, np.nan)
    items_NK[rows_P, places_P] = columns_P + 1 if choice is None else choice.items_C[columns_P]
    scores_NK[rows_P, places_P] = exact_scores(states_ND, catalogue.items_VD, rows_P, columns_P)
    return Lists(items_NK, scores_NK)


def _among(seen: Seen, items_C: np.ndarray) -> Seen:
    """The seen pairs by their places among the chosen items; the others are left out."""
    place_P = np.minimum(np.searchsorted(items_C, seen.columns_P + 1), max(len(items_C) - 1, 0))
    chosen_P = items_C[place_P] == seen.columns_P + 1 if len(items_C) else np.zeros(len(place_P), bool)
    return Seen(seen.rows_P[chosen_P], place_P[chosen_P])


def _rank_products(scorer: EncoderScorer, cases: Cases, tile_users: int, tile_items: int, top_k: int, tie_seed: int
                   ) -> Ranks:
    catalogue = scorer.catalogue(tie_seed)

    def shard(indices: np.ndarray) -> Ranks:
        targets_N = cases.targets[indices].astype(np.int64)
        seen = _seen_pairs(cases.histories, indices, targets_N)
        tiles = Tiles(_finite_states(scorer, catalogue, cases, indices), catalogue, seen, tile_users, tile_items)
        ahead, best = ItemsAhead(tiles, targets_N - 1), BestItems(tiles, top_k) if top_k else None
        for users, items in tiles:
            scores_BC = tiles.scores_BC(users, items)
            ahead.add(scores_BC, users, items)
            if best is not None:
                best.add(scores_BC, users, items)
        before_N, seen_before_N = ahead.result()
        tops = [np.zeros((len(indices), 0), np.int32)] * 2
        if best is not None:
            tops = [(1 + lists).astype(np.int32) for lists in best.unseen_and_all()]
        return Ranks((1 + before_N - seen_before_N).astype(np.int32), (1 + before_N).astype(np.int32), *tops)

    none, nothing = np.zeros(0, np.int32), np.zeros((0, top_k), np.int32)
    parts = [Ranks(none, none, nothing, nothing), *_in_shards(scorer, shard, len(cases))]
    return Ranks(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Ranks)))


def _in_shards(scorer: EncoderScorer, shard: Callable[[np.ndarray], Found], count: int) -> list[Found]:
    """What ``shard`` gives for the users of each shard, on torch's threads."""
    def of_users(indices: np.ndarray) -> Found:
        with torch.inference_mode():
            return shard(indices)

    with scorer.without_dropout():
        return on_threads(of_users, shards(count))


def shards(count: int) -> list[np.ndarray]:
    """Users whose states are encoded together: runs of 0…count-1 of about the same length."""
    return np.array_split(np.arange(count), -(-count // SHARD_USERS)) if count else []


def _seen_pairs(histories: Sequences, indices: np.ndarray, targets_N: np.ndarray | None) -> Seen:
    """Distinct pairs of (place in ``indices``, item - 1), the targets left out."""
    rows, items, _ = flat_histories(histories, indices)
    if targets_N is not None:
        others = items != targets_N[rows]
        rows, items = rows[others], items[others]
    width = int(items.max(initial=0)) + 1
    pairs = np.unique(rows * width + items)
    return Seen(pairs // width, pairs % width - 1)


def _finite_states(scorer: EncoderScorer, catalogue: Catalogue, cases: Cases, indices: np.ndarray) -> Tensor:
    """The users' states on the CPU, [N, D].

    Raises:
        TrainingError: scores of theirs would not be finite.
    """
    states_ND = scorer.states(cases.histories, indices).cpu()
    norms_N = torch.linalg.vector_norm(states_ND, dim=1)
    norms_V = torch.from_numpy(catalogue.norms_V)
    if not torch.isfinite(norms_N.amax() * norms_V.amax()):
        row, column = ((-norms).nan_to_num(-torch.inf).argmin() for norms in (norms_N, norms_V))
        not_finite(int(cases.users[indices[row]]), int(column) + 1, float(norms_N[row] * norms_V[column]))
    return states_ND


def _check(cases: Cases, num_items: int, batch_users: int, item_chunk: int, top_k: int) -> None:
    for name, value, least in (("batch_users", batch_users, 1), ("item_chunk", item_chunk, 1), ("top_k", top_k, 0)):
        if value < least:
            raise DataError(illegal(name, value, f"{least} or more"))
    for name, items in (("target", cases.targets), ("history item", cases.histories.values)):
        if len(items) and not 1 <= items.min() <= items.max() <= num_items:
            wrong = items.min() if items.min() < 1 else items.max()
            raise DataError(illegal(name, int(wrong), f"1…{num_items}", "unknown items have no place in a case"))
