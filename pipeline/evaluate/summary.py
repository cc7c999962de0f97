"""What an evaluation's manifest says of its ranks: the protocol and the means. The report makes its own from the ranks.

Legend: N cases.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from models import metrics
from models.scoring import Ranks
from models.sequences import Cases, flat_histories
from pipeline.evaluate.config import EvaluateConfig
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import COUNT

SEEN_REMOVED, ALL_ITEMS = "seen_removed", "all_items"


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


def means(config: EvaluateConfig, ranks: Ranks) -> dict[str, dict[str, float]]:
    """Means over the users under both protocols."""
    return {SEEN_REMOVED: metrics.mean(metrics.per_user(ranks.rank, config.cutoffs)),
            ALL_ITEMS: metrics.mean(metrics.per_user(ranks.rank_unfiltered, config.cutoffs))}


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
