"""Some test users, drawn at random: history, profile, and what the recommenders offer them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.report.catalogue import Histories, Items, rows_of_users
from pipeline.report.ranks import Cases, Protocol, Ranked
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import ANGLE, PROFILE, USER_IDX

_HISTORY = 8
_OFFERED = 5


def samples(count: int, seed: int, cases: Cases, recommenders: Mapping[str, Ranked], protocol: Protocol, items: Items,
            histories: Histories, profiles: Artifact | None) -> list[dict[str, Any]]:
    """``count`` users, by index; those with a profile first where there are profiles.

    Args:
        recommenders: label → answers to ``cases``, in the order they are shown.
    """
    rows = np.random.default_rng(seed).permutation(len(cases.users_N))
    texts: dict[int, dict[str, str]] = {}
    if profiles is not None and count:
        known = profiles.read_table("profiles", [USER_IDX])[USER_IDX].to_numpy()
        rows = rows[np.argsort(~np.isin(cases.users_N[rows], known), kind="stable")]
        texts = texts_of(profiles, cases.users_N[rows[:count]])
    chosen = np.sort(rows[:count])
    lists = {label: ranked.lists(protocol, cases.users_N[chosen].tolist()) for label, ranked in recommenders.items()}
    found = []
    for row in chosen:
        user, target = int(cases.users_N[row]), int(cases.targets_N[row])
        history = histories.test(user)
        found.append({
            "user": user,
            "history": [items.title(i) for i in history[-_HISTORY:].tolist()],
            "earlier": max(0, len(history) - _HISTORY),
            "target": items.title(target), "target_count": int(cases.target_count_N[row]),
            "profiles": texts.get(user, {}),
            "offers": {label: {
                "rank": int(ranked.ranks[protocol][row]),
                "items": [{"title": items.title(i), "hit": i == target}
                          for i in lists[label][user][:_OFFERED] if i > 0],
            } for label, ranked in recommenders.items()}})
    return found


def texts_of(profiles: Artifact, users: np.ndarray) -> dict[int, dict[str, str]]:
    """User → angle → profile text."""
    texts: dict[int, dict[str, str]] = {}
    for row in rows_of_users(profiles, "profiles", [ANGLE, PROFILE], users.tolist()).to_pylist():
        texts.setdefault(row[USER_IDX], {})[row[ANGLE]] = row[PROFILE]
    return texts
