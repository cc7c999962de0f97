"""Ranking metrics of one target per user, from exact ranks: per user first, means last, from sums and counts.

Legend: N users, K cutoff or list length, V catalogue.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from configs.errors import DataError, illegal

NAMES = ("recall", "ndcg", "mrr")


def per_user(ranks: np.ndarray, cutoffs: Iterable[int]) -> dict[str, np.ndarray]:
    """Metrics of each user, named ``recall@10``, ``ndcg@10``, ``mrr@10``; float64 [N] each.

    With one target per user recall@K equals the hit rate, the ideal DCG is 1 and ndcg@K = 1 / log2(1 + rank);
    mrr@K = 1 / rank; all are 0 where rank > K.

    Args:
        ranks: int [N], 1-based rank of each user's target.
        cutoffs: values of K, each at least 1.

    Raises:
        DataError: a rank or a cutoff below 1.
    """
    rank = np.asarray(ranks)
    if rank.size and rank.min() < 1:
        raise DataError(illegal("rank", int(rank.min()), "1, 2, …"))
    gain, reciprocal = 1.0 / np.log2(1.0 + rank), 1.0 / rank
    values: dict[str, np.ndarray] = {}
    for k in cutoffs:
        if k < 1:
            raise DataError(illegal("cutoff", k, "1, 2, …"))
        hit = rank <= k
        values[f"recall@{k}"] = hit.astype(np.float64)
        values[f"ndcg@{k}"] = np.where(hit, gain, 0.0)
        values[f"mrr@{k}"] = np.where(hit, reciprocal, 0.0)
    return values


def mean(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Mean of each metric over its users: exactly rounded sum over count, so that the order of users is nothing.

    Raises:
        DataError: a metric without users.
    """
    for name, column in values.items():
        if not len(column):
            raise DataError(f"{name}: no users to average over; there are no cases to rank")
    return {name: math.fsum(column) / len(column) for name, column in values.items()}


def coverage(top: np.ndarray, num_items: int, cutoffs: Iterable[int]) -> dict[str, float]:
    """``coverage@K``: share of the catalogue that stands in at least one user's first K.

    Args:
        top: int [N, ≥K] recommended items, 1…num_items; 0 marks an empty place.
        num_items: size of the catalogue.
        cutoffs: values of K.
    """
    return {f"coverage@{k}": float(np.count_nonzero(np.unique(top[:, :k]))) / num_items for k in cutoffs}


def mean_popularity(top: np.ndarray, counts: np.ndarray, cutoffs: Iterable[int]) -> dict[str, float]:
    """``popularity@K``: mean training count of the recommended items, over all users' filled places.

    Args:
        top: int [N, ≥K] recommended items, 1…V; 0 marks an empty place.
        counts: int [V] training interactions of item 1, 2, ….
        cutoffs: values of K.
    """
    values = {}
    for k in cutoffs:
        items = top[:, :k][top[:, :k] > 0]
        values[f"popularity@{k}"] = float(counts[items - 1].sum(dtype=np.int64)) / max(len(items), 1)
    return values
