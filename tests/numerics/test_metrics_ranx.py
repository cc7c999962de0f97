"""Our metrics against ranx, an independent library, on random ranks."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from models.metrics import mean, per_user

CUTOFFS = (1, 5, 10, 20)
PAIRS = (("recall", "recall"), ("recall", "hit_rate"), ("ndcg", "ndcg"), ("mrr", "mrr"))
"""Our name and theirs."""
USERS, ITEMS = 300, 40

# In a process of its own, in plain Python: compiling ranx takes more than a minute.
_SCRIPT = """
import json, sys
import ranx
ranks, items, names = json.load(sys.stdin)
qrels = ranx.Qrels({f"u{u}": {f"i{rank}": 1} for u, rank in enumerate(ranks)})
run = ranx.Run({f"u{u}": {f"i{place}": float(items - place) for place in range(1, items + 1)}
                for u in range(len(ranks))})
means = ranx.evaluate(qrels, run, names)
print(json.dumps([{name: float(value) for name, value in means.items()},
                  {name: [float(run.scores[name][f"u{u}"]) for u in range(len(ranks))] for name in names}]))
"""


def test_metrics_equal_ranx_on_random_ranks() -> None:
    if importlib.util.find_spec("ranx") is None:
        pytest.skip("ranx is not installed")
    ranks = np.random.default_rng(0).integers(1, ITEMS + 1, USERS)
    names = [f"{theirs}@{k}" for _, theirs in PAIRS for k in CUTOFFS]
    told = subprocess.run([sys.executable, "-c", _SCRIPT], input=json.dumps([ranks.tolist(), ITEMS, names]), text=True,
                          env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True, timeout=300)
    assert told.returncode == 0, told.stderr[-2000:]
    their_means, their_values = json.loads(told.stdout.splitlines()[-1])
    values = per_user(ranks, CUTOFFS)
    means = mean(values)
    for k in CUTOFFS:
        for ours, theirs in PAIRS:
            assert means[f"{ours}@{k}"] == pytest.approx(their_means[f"{theirs}@{k}"], rel=1e-12)
            np.testing.assert_allclose(values[f"{ours}@{k}"], their_values[f"{theirs}@{k}"], rtol=1e-12)
