"""From ranks to `metrics.json`: means, coverage, popularity, slices and the protocol beside them.

Legend: N cases, V catalogue.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from models import metrics
from models.scoring import Ranks
from models.sequences import Cases, flat_histories
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.slices import FREQUENCY_BINS, HISTORY_BINS, binned, by_category
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import CATEGORY, COUNT

SEEN_REMOVED, ALL_ITEMS = "seen_removed", "all_items"
SLICE_CUTOFF = 10


def protocol(config: EvaluateConfig, prepared: Artifact, cases: Cases, items: pa.Table) -> dict[str, Any]:
    """What was ranked, how, and the counts that the figures stand on."""
    return {
        "split": prepared.manifest.key["config"].get("split"),
        "main": SEEN_REMOVED if config.filter_seen else ALL_ITEMS,
        "candidates": "the whole catalogue",
        "seen_removed": "the user's history is removed from the ranking, the target never is",
        "ties": f"equal scores in a seeded order of the items (tie_seed={config.tie_seed})",
        "num_items": len(items),
        "num_users": len(cases),
        "num_cold_targets": int((target_counts(cases, items) == 0).sum()),
        "num_repeated_targets": int(repeated_targets(cases).sum()),
    }


def summarize(config: EvaluateConfig, prepared: Artifact, cases: Cases, items: pa.Table,
              ranks: Ranks) -> dict[str, Any]:
    """The content of `metrics.json`.

    ``seen_removed`` and ``all_items`` hold the means of both protocols, ``coverage`` and ``popularity`` the lists'
    breadth under each, ``slices`` means of the main protocol by history length, target frequency and category.
    """
    counts_V = items[COUNT].to_numpy()
    lists = {SEEN_REMOVED: ranks.top, ALL_ITEMS: ranks.top_unfiltered}
    main = ranks.rank if config.filter_seen else ranks.rank_unfiltered
    return {
        "protocol": protocol(config, prepared, cases, items),
        SEEN_REMOVED: metrics.mean(metrics.per_user(ranks.rank, config.cutoffs)),
        ALL_ITEMS: metrics.mean(metrics.per_user(ranks.rank_unfiltered, config.cutoffs)),
        "coverage": {name: metrics.coverage(top, len(items), config.cutoffs) for name, top in lists.items()},
        "popularity": {name: metrics.mean_popularity(top, counts_V, config.cutoffs) for name, top in lists.items()},
        "slices": {
            "history_length": _slices(main, binned(cases.histories.lengths, HISTORY_BINS)),
            "target_frequency": _slices(main, binned(target_counts(cases, items), FREQUENCY_BINS)),
            "target_category": _slices(main, by_category(cases.targets, items[CATEGORY].to_pylist())),
        },
    }


def target_counts(cases: Cases, items: pa.Table) -> np.ndarray:
    """Training interactions of each case's target; 0 = cold. int32 [N]."""
    counts: np.ndarray = items[COUNT].to_numpy()[cases.targets - 1].astype(np.int32)
    return counts


def repeated_targets(cases: Cases) -> np.ndarray:
    """Whether each case's target already stands in its history, bool [N]."""
    rows, history_items, _ = flat_histories(cases.histories, np.arange(len(cases)))
    repeated = np.zeros(len(cases), bool)
    repeated[rows[history_items == cases.targets[rows]]] = True
    return repeated


def _slices(ranks: np.ndarray, members: Iterable[tuple[str, np.ndarray]]) -> dict[str, dict[str, float | int]]:
    """Means of every slice that has users."""
    return {label: {"n": int(chosen.sum())} | metrics.mean(metrics.per_user(ranks[chosen], (SLICE_CUTOFF,)))
            for label, chosen in members if chosen.any()}
