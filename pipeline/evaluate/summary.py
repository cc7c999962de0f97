"""What an evaluation's manifest says of its ranks: the protocol and the means. The report makes its own from the ranks.

Legend: N cases.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from models import metrics
from models.sequences import Cases, flat_histories
from pipeline.evaluate.config import EvaluateConfig
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import COUNT

SEEN_REMOVED, ALL_ITEMS = "seen_removed", "all_items"
_CASES_AT_ONCE = 2**16


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


def means(config: EvaluateConfig, ranks_N: np.ndarray, unfiltered_N: np.ndarray) -> dict[str, dict[str, float]]:
    """Means over the users under both protocols; one cutoff at a time, for the sake of memory."""
    return {name: {metric: value for cutoff in config.cutoffs
                   for metric, value in metrics.mean(metrics.per_user(found_N, (cutoff,))).items()}
            for name, found_N in ((SEEN_REMOVED, ranks_N), (ALL_ITEMS, unfiltered_N))}


def target_counts(cases: Cases, items: pa.Table) -> np.ndarray:
    """Training interactions of each case's target; 0 = cold. int32 [N]."""
    counts: np.ndarray = items[COUNT].to_numpy()[cases.targets - 1].astype(np.int32)
    return counts


def repeated_targets(cases: Cases) -> np.ndarray:
    """Whether each case's target already stands in its history, bool [N]."""
    repeated = np.zeros(len(cases), bool)
    for start in range(0, len(cases), _CASES_AT_ONCE):
        at_once = np.arange(start, min(start + _CASES_AT_ONCE, len(cases)))
        rows, history_items, _ = flat_histories(cases.histories, at_once)
        repeated[start + rows[history_items == cases.targets[start + rows]]] = True
    return repeated
