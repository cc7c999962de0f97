"""Baselines, fitted on the training part alone and scored by the same code as the models.

Legend: B users, V catalogue, C items of a chunk. Column i - 1 of a matrix is item i.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from models.scoring import Scorer
from models.sequences import Sequences, flat_histories
from pipeline.evaluate.config import Baseline, EvaluateConfig, ItemKNNConfig, TransitionsConfig
from pipeline.evaluate.content import fit_content
from pipeline.evaluate.ease import fit_ease
from pipeline.evaluate.histories import train_counts, weighted_histories
from pipeline.train.item_vectors import ItemVectors

_BLOCK_ITEMS = 1024
"""Items whose neighbours are sought at once."""


def fit_baseline(config: EvaluateConfig, name: Baseline, train: Sequences, num_items: int,
                 texts: ItemVectors | None = None) -> Scorer:
    """The scorer of a baseline; ``train`` holds training sequences only, ``texts`` is for the content baseline."""
    if name == "content":
        assert texts is not None, "its step names the items' texts among its inputs"
        return fit_content(config.content, texts)
    if name == "popularity":
        return Popularity(train_counts(train, num_items).astype(np.float32))
    if name == "transitions":
        return fit_transitions(config.transitions, train, num_items)
    if name == "item_knn":
        return fit_item_knn(config.item_knn, train, num_items)
    return fit_ease(config.ease, train, num_items)


@dataclass(frozen=True)
class Popularity:
    """Every user is shown the items with the most training interactions."""

    counts_V: np.ndarray
    """float32."""

    @property
    def num_items(self) -> int:
        return len(self.counts_V)

    def states(self, histories: Sequences, indices: np.ndarray) -> int:
        """The number of users is all that matters."""
        return len(indices)

    def scores(self, states: int, start: int, stop: int) -> Tensor:
        return torch.from_numpy(np.tile(self.counts_V[start - 1 : stop - 1], (states, 1)))


@dataclass(frozen=True)
class ItemGraph:
    """Each history item, weighted by its recency, votes for the items it is linked to."""

    links_VV: sparse.csr_matrix
    """float32; row = history item, column = item voted for."""
    backoff_V: np.ndarray
    """float32, added to every user's scores."""
    decay: float
    """Weight exp(-decay · steps back)."""
    last_items: int | None
    """Only so many recent history items vote; None: all."""

    @property
    def num_items(self) -> int:
        return len(self.backoff_V)

    def states(self, histories: Sequences, indices: np.ndarray) -> sparse.csc_matrix:
        """Sparse votes [B, V]."""
        weights_BV = weighted_histories(histories, indices, self.decay, self.num_items, self.last_items)
        return (weights_BV @ self.links_VV).tocsc()

    def scores(self, states: sparse.csc_matrix, start: int, stop: int) -> Tensor:
        votes_BC = states[:, start - 1 : stop - 1].toarray(order="C")
        return torch.from_numpy(votes_BC + self.backoff_V[start - 1 : stop - 1])


def fit_transitions(config: TransitionsConfig, train: Sequences, num_items: int) -> ItemGraph:
    """P(next item | last item) from consecutive training items."""
    backoff_V = _backoff(config.popularity_backoff, train, num_items)
    return ItemGraph(following(train, num_items), backoff_V, decay=0.0, last_items=1)


def following(train: Sequences, num_items: int, window: int = 1, shrinkage: float = 0.0) -> sparse.csr_matrix:
    """float32 [V, V], how often an item (row) is followed by another within so many steps, each time counted as
    1 / steps, over the row's sum plus ``shrinkage``: the sequential rules of Ludewig & Jannach (UMUAI'18)."""
    rows, items, steps_back = flat_histories(train, np.arange(len(train)))
    counts_VV = sparse.csr_matrix((num_items, num_items))
    for steps in range(1, min(window, int(steps_back.max(initial=0))) + 1):
        first = np.flatnonzero(steps_back[:-steps] >= steps)
        pairs = (items[first] - 1, items[first + steps] - 1)
        counts_VV += sparse.csr_matrix((np.full(len(first), 1 / steps), pairs), shape=(num_items, num_items))
    totals_V = np.asarray(counts_VV.sum(1))[:, 0] + shrinkage
    shares_VV = sparse.diags(1.0 / np.where(totals_V > 0, totals_V, 1.0)) @ counts_VV
    return shares_VV.tocsr().astype(np.float32)


def fit_item_knn(config: ItemKNNConfig, train: Sequences, num_items: int) -> ItemGraph:
    """Cosine similarity over users, each item's nearest neighbours; of equally near ones the lower index stays."""
    users_by_items = weighted_histories(train, np.arange(len(train)), 0.0, num_items).astype(np.float64)
    items_by_users = users_by_items.T.tocsr()
    norms_V = np.sqrt(np.diff(items_by_users.indptr))
    neighbors = []
    for start in range(0, num_items, _BLOCK_ITEMS):
        block = (items_by_users[start : start + _BLOCK_ITEMS] @ users_by_items).tocoo()
        item, other = block.row + start, block.col
        similarity = block.data / (norms_V[item] * norms_V[other] + config.shrinkage)
        real = item != other
        item, other, similarity = item[real], other[real], similarity[real]
        order = np.lexsort((other, -similarity, item))
        item, other, similarity = item[order], other[order], similarity[order]
        first = np.searchsorted(item, item)  # where the item's own run begins
        near = np.arange(len(item)) - first < config.neighbors
        neighbors.append((item[near], other[near], similarity[near]))
    item, other, similarity = (np.concatenate(parts) for parts in zip(*neighbors, strict=True))
    links_VV = sparse.csr_matrix((similarity.astype(np.float32), (item, other)), shape=(num_items, num_items))
    backoff_V = _backoff(config.popularity_backoff, train, num_items)
    return ItemGraph(links_VV, backoff_V, config.recency_decay, last_items=None)


def _backoff(weight: float, train: Sequences, num_items: int) -> np.ndarray:
    """float32 [V]: ``weight`` for the most popular item, the others in proportion to their training counts."""
    counts_V = train_counts(train, num_items)
    return (weight * counts_V / max(int(counts_V.max(initial=0)), 1)).astype(np.float32)
