"""How often each user of a batch met each feature: over all, among liked and disliked, and among the latest items.

Legend: N users, M interactions, T (interaction, feature) pairs, G (user, feature) groups, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.profile.features import ItemFeatures, Kind
from pipeline.profile.histories import RECENT_SHARE, Histories

_MIN_SPLIT = 4
"""Shorter histories are not divided into recent and earlier."""
_TOLERANCE = 1e-6
"""A signal this close below the user's mean counts as reaching it."""
_COMMON = 0.5
"""A feature of more items than this share says nothing about a user's focus."""


@dataclass(frozen=True)
class Counts:
    """Counts per (user, feature) group, groups ordered by user and feature, and per user."""

    user_G: np.ndarray
    feature_G: np.ndarray
    all_G: np.ndarray
    liked_G: np.ndarray
    disliked_G: np.ndarray
    recent_G: np.ndarray
    lengths_N: np.ndarray
    liked_N: np.ndarray
    disliked_N: np.ndarray
    recent_N: np.ndarray
    """Interactions of the latest third; 0 where a history is too short to be divided."""
    told_N: np.ndarray
    """bool: some word, category or attribute is there."""
    price_N: np.ndarray
    """Mean price level, 0…1; NaN where no price is known."""
    top_share_N: np.ndarray
    """Share of the interactions that carry the user's commonest word or category."""
    repeat_share_N: np.ndarray
    """Share of the interactions with an item met before."""


def count(histories: Histories, items: ItemFeatures, liked_signal: float | None) -> Counts:
    """Count a batch. An interaction without signal is neither liked nor disliked.

    Args:
        liked_signal: liked from this signal on; None: from the user's own mean on.
    """
    num_users, owner_M, lengths_N = len(histories), histories.owner_M, histories.lengths_N
    known_M = ~np.isnan(histories.signals_M)
    liked_M = np.zeros(len(owner_M), bool)
    liked_M[known_M] = histories.signals_M[known_M] >= _threshold_M(histories, liked_signal)[known_M] - _TOLERANCE
    disliked_M = known_M & ~liked_M
    recent_N = np.where(lengths_N >= _MIN_SPLIT, -(-lengths_N // RECENT_SHARE), 0)
    recent_M = histories.place_M >= np.repeat(lengths_N - recent_N, lengths_N)

    start_M = items.offsets_I[histories.items_M]
    size_M = items.offsets_I[histories.items_M + 1] - start_M
    pair_T = np.repeat(np.arange(len(owner_M)), size_M)
    place_T = np.arange(len(pair_T)) - np.repeat(np.cumsum(size_M) - size_M, size_M)
    feature_T = items.features_E[start_M[pair_T] + place_T]
    num_features = max(1, len(items.kind_F))
    keys_G, group_T = np.unique(owner_M[pair_T] * np.int64(num_features) + feature_T, return_inverse=True)
    user_G, feature_G = keys_G // num_features, keys_G % num_features

    def grouped(mask_M: np.ndarray) -> np.ndarray:
        return np.bincount(group_T[mask_M[pair_T]], minlength=len(keys_G))

    all_G = np.bincount(group_T, minlength=len(keys_G))
    kind_G = items.kind_F[feature_G]
    themes_G = (kind_G <= Kind.CATEGORY) & (items.count_F[feature_G] <= _COMMON * (len(items.offsets_I) - 2))
    top_N = np.zeros(num_users, np.int64)
    np.maximum.at(top_N, user_G[themes_G], all_G[themes_G])
    price_M = items.price_I[histories.items_M]
    priced_M = ~np.isnan(price_M)
    with np.errstate(invalid="ignore"):
        price_N = np.bincount(owner_M[priced_M], price_M[priced_M], num_users) / np.bincount(owner_M[priced_M],
                                                                                          minlength=num_users)
    distinct = np.unique(owner_M * np.int64(len(items.offsets_I)) + histories.items_M)
    distinct_N = np.bincount(distinct // len(items.offsets_I), minlength=num_users)
    return Counts(
        user_G=user_G, feature_G=feature_G, all_G=all_G, liked_G=grouped(liked_M), disliked_G=grouped(disliked_M),
        recent_G=grouped(recent_M), lengths_N=lengths_N, liked_N=np.bincount(owner_M[liked_M], minlength=num_users),
        disliked_N=np.bincount(owner_M[disliked_M], minlength=num_users), recent_N=recent_N,
        told_N=np.bincount(user_G[kind_G != Kind.DECADE], minlength=num_users) > 0, price_N=price_N,
        top_share_N=top_N / np.maximum(lengths_N, 1), repeat_share_N=1 - distinct_N / np.maximum(lengths_N, 1))


def _threshold_M(histories: Histories, liked_signal: float | None) -> np.ndarray:
    if liked_signal is not None:
        return np.full(len(histories.items_M), liked_signal)
    known_M = ~np.isnan(histories.signals_M)
    owner_M = histories.owner_M
    total_N = np.bincount(owner_M[known_M], histories.signals_M[known_M], len(histories))
    known_N = np.bincount(owner_M[known_M], minlength=len(histories))
    mean_N: np.ndarray = total_N / np.maximum(known_N, 1)
    return mean_N[owner_M]
