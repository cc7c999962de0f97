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


def times_listed(top: np.ndarray, num_items: int) -> np.ndarray:
    """How often each item stands in the lists, int64 [V].

    Args:
        top: int [N, K] recommended items, 1…num_items; 0 marks an empty place.
        num_items: V.
    """
    counted: np.ndarray = np.bincount(top.ravel(), minlength=num_items + 1)[1:]
    return counted


def coverage(times_V: np.ndarray) -> float:
    """Share of the catalogue that stands in at least one list; ``times_V`` as :func:`times_listed` gives it."""
    return float(np.count_nonzero(times_V)) / len(times_V)


def mean_popularity(times_V: np.ndarray, counts_V: np.ndarray) -> float:
    """Mean training count of the recommended items, over all filled places; 0 where there are none.

    Args:
        times_V: as :func:`times_listed` gives it.
        counts_V: training interactions of item 1, 2, ….
    """
    return float(times_V @ counts_V.astype(np.int64)) / max(int(times_V.sum()), 1)
