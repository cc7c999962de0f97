"""Our metrics against ranx, an independent library, on random ranks."""

from __future__ import annotations

import numpy as np
import pytest

from models.metrics import mean, per_user

ranx = pytest.importorskip("ranx")
CUTOFFS = (1, 5, 10, 20)


def test_metrics_equal_ranx_on_random_ranks() -> None:
    users, items = 300, 40
    ranks = np.random.default_rng(0).integers(1, items + 1, users)
    qrels = ranx.Qrels({f"u{u}": {f"i{rank}": 1} for u, rank in enumerate(ranks)})
    run = ranx.Run({f"u{u}": {f"i{place}": float(items - place) for place in range(1, items + 1)}
                    for u in range(users)})
    names = [f"{metric}@{k}" for metric in ("recall", "hit_rate", "ndcg", "mrr") for k in CUTOFFS]
    expected = ranx.evaluate(qrels, run, names)
    values = per_user(ranks, CUTOFFS)
    means = mean(values)
    for k in CUTOFFS:
        for ours, theirs in (("recall", "recall"), ("recall", "hit_rate"), ("ndcg", "ndcg"), ("mrr", "mrr")):
            assert means[f"{ours}@{k}"] == pytest.approx(expected[f"{theirs}@{k}"], rel=1e-12)
            each = [run.scores[f"{theirs}@{k}"][f"u{u}"] for u in range(users)]
            np.testing.assert_allclose(values[f"{ours}@{k}"], each, rtol=1e-12)
