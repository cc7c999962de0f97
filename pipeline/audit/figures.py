"""From ranks to the figures of an audit: means, intervals over users, paired differences, and what chance would give.

Every metric is higher where a ranking is better. Legend: N users, M quantities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from models import metrics
from models.sequences import Cases, flat_histories
from pipeline.audit.config import AuditConfig
from pipeline.audit.subjects import PROFILE
from pipeline.report.statistics import intervals

Values = Mapping[str, np.ndarray]


def candidates(cases: Cases, num_items: int) -> np.ndarray:
    """int64 [N]: items ranked when each history is removed; the target never is."""
    rows, items, _ = flat_histories(cases.histories, np.arange(len(cases)))
    others = items != cases.targets[rows]
    pairs = np.unique(rows[others] * np.int64(num_items + 1) + items[others])
    seen: np.ndarray = np.bincount(pairs // (num_items + 1), minlength=len(cases))
    return num_items - seen


def of_ranks(ranks_N: np.ndarray, candidates_N: np.ndarray, cutoff: int) -> dict[str, np.ndarray]:
    """NDCG@K, Recall@K, MRR over the whole list, and the share of the other candidates that stand below the target."""
    found = metrics.per_user(ranks_N, (cutoff,))
    rank_N = ranks_N.astype(np.float64)
    return {f"ndcg@{cutoff}": found[f"ndcg@{cutoff}"], f"recall@{cutoff}": found[f"recall@{cutoff}"],
            "mrr": 1.0 / rank_N, "percentile": (candidates_N - rank_N) / np.maximum(candidates_N - 1, 1)}


def by_chance(candidates_N: np.ndarray, cutoff: int) -> dict[str, np.ndarray]:
    """The expectation of :func:`of_ranks` where every rank is equally likely."""
    sizes, place_N = np.unique(candidates_N, return_inverse=True)
    harmonic = np.cumsum(1.0 / np.arange(1, int(sizes[-1]) + 1))
    gains = np.cumsum(1.0 / np.log2(1.0 + np.arange(1, cutoff + 1)))
    listed = np.minimum(sizes, cutoff)
    values = {f"ndcg@{cutoff}": gains[listed - 1] / sizes, f"recall@{cutoff}": listed / sizes,
              "mrr": harmonic[sizes - 1] / sizes, "percentile": np.where(sizes > 1, 0.5, 0.0)}
    return {name: value[place_N] for name, value in values.items()}


def summarize(config: AuditConfig, subjects: Mapping[str, Values]) -> dict[str, Any]:
    """``subjects``: mean and interval of every metric; ``differences``: the profile's against each of the others.

    All quantities share the resamples of users.
    """
    names = [(subject, metric) for subject, values in subjects.items() for metric in values]
    pairs = [(PROFILE, other, metric) for other, metric in names if other != PROFILE]
    columns = [subjects[subject][metric] for subject, metric in names]
    columns += [subjects[first][metric] - subjects[second][metric] for first, second, metric in pairs]
    values_1NM = np.stack(columns, axis=1)[None]
    found = intervals(values_1NM, config.bootstrap_samples, config.confidence, config.seed)
    means: dict[str, dict[str, Any]] = {}
    for (subject, metric), row in zip(names, found, strict=False):
        means.setdefault(subject, {})[metric] = {"mean": row.mean, "low": row.low, "high": row.high}
    return {"subjects": means, "differences": [
        {"first": first, "second": second, "metric": metric, "mean": row.mean, "low": row.low, "high": row.high,
         "verdict": row.verdict} for (first, second, metric), row in zip(pairs, found[len(names):], strict=True)]}
