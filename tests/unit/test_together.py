"""Recorded runs of one seed each, together: intervals no narrower than those of one run of all seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.report.statistics import intervals
from tests.bench.together import page, together

SEEDS, USERS = 3, 4000


def recorded(change_SN: np.ndarray, **config: object) -> dict[str, dict[str, Any]]:
    runs = {}
    for seed, change_N in enumerate(change_SN):
        (found,) = intervals(change_N[None, :, None], 2000, 0.95, 0)
        row = {"first": "matched", "second": "plain", "mean": found.mean, "low": found.low, "high": found.high,
               "relative": found.mean / 0.5}
        runs[f"seed-{seed}"] = {"config": {"name": f"seed-{seed}", "seeds": [seed], "epochs": 9, **config}, "metrics": {
            "seeds": [seed], "test_users": USERS, "claims": {"metric": "ndcg@10", "level": 0.05, "rows": [row]}}}
    return runs


@pytest.mark.parametrize("shared", [1.0, 0.0])
def test_intervals_are_those_of_all_seeds_at_once_or_wider(shared: float) -> None:
    """As wide where every seed errs on the same users alike, wider where each errs on its own."""
    rng = np.random.default_rng(4)
    users_SN = shared * rng.normal(size=(1, USERS)) + (1 - shared) * rng.normal(size=(SEEDS, USERS))
    change_SN = users_SN - users_SN.mean(axis=1, keepdims=True) + np.array([[0.2], [0.21], [0.19]])
    (row,) = together(recorded(change_SN))["rows"]
    (at_once,) = intervals(change_SN[:, :, None], 2000, 0.95, 0)
    assert row["mean"] == pytest.approx(at_once.mean) and row["relative"] == pytest.approx(0.2 / 0.5)
    width = (row["high"] - row["low"]) / (at_once.high - at_once.low)
    assert width == pytest.approx(1, abs=0.06) if shared else width > 1.2
    assert row["shown"] and "| matched − plain | 0, 1, 2 | +0.2000, +0.2100, +0.1900 |" in page("p", together(
        recorded(change_SN)))


def test_runs_that_cannot_be_put_together_are_refused() -> None:
    change_SN = np.random.default_rng(1).normal(size=(2, 50))
    first, second = recorded(change_SN, dropout=0.2), recorded(change_SN, dropout=0.3)
    with pytest.raises(SystemExit, match="seed-1 was run with other settings than seed-0"):
        together({"seed-0": first["seed-0"], "seed-1": second["seed-1"]})
    shorter = recorded(change_SN, dropout=0.2, recipes={"matched": {"epochs": 5}})
    with pytest.raises(SystemExit, match="other settings"):
        together({"seed-0": first["seed-0"], "seed-1": shorter["seed-1"]})
    for given in ({"batch": 128}, {"item_init": {"kind": "text"}}):
        one, other = recorded(change_SN, **given), recorded(change_SN, **dict.fromkeys(given))
        with pytest.raises(SystemExit, match="other settings"):
            together({"seed-0": one["seed-0"], "seed-1": other["seed-1"]})
    newer = recorded(change_SN, dropout=0.2, recommend={"new_days": 3}, recipes={"matched": {"init_from": None}})
    assert together({"seed-0": first["seed-0"], "seed-1": newer["seed-1"]})["rows"]  # not known to the older version
    with pytest.raises(SystemExit, match="must have one of its own"):
        together({"seed-0": first["seed-0"], "again": first["seed-0"]})


def test_no_difference_at_all_is_told_and_what_was_not_repeated_counts_in_the_family() -> None:
    runs = recorded(np.random.default_rng(2).normal(0.05, 1, (2, 400)))
    (alone,) = together(runs)["rows"]
    same = {"first": "longer", "second": "plain", "mean": 0.0, "low": 0.0, "high": 0.0, "relative": 0.0}
    for name, run in runs.items():
        rows = run["metrics"]["claims"]["rows"]
        rows += [same] if name == "seed-1" else [same, {**rows[0], "first": "left"}]
    found = together(runs)
    matched, longer = found["rows"]
    assert (longer["p"], longer["relative"], longer["shown"]) == (1.0, None, False)
    assert matched["p_holm"] == pytest.approx(min(1.0, 3 * alone["p"])), "of three, one with one seed"
    assert "| longer − plain | 0, 1 | +0.0000, +0.0000 | +0.0000 | – |" in page("p", found)


def test_seeds_that_share_members_tell_less() -> None:
    """Against simulation: seeds that average three members each, neighbours two of them alike."""
    rng = np.random.default_rng(0)
    members = [{"arm": "plain", "seed": n} for n in range(3)]
    recipes = {"recipes": {"plain": {}, "matched": {"train": {"ensemble": {"members": members}}}}}
    missed, drawn = {"told": 0, "not told": 0}, 300
    for _ in range(drawn):
        own = rng.normal(size=SEEDS + 2)
        means_S = np.array([own[s : s + 3].mean() for s in range(SEEDS)])
        for name, given in (("told", recipes), ("not told", {})):
            runs = {f"seed-{s}": {"config": {"name": f"seed-{s}", "seeds": [s], **given}, "metrics": {
                "seeds": [s], "test_users": USERS, "claims": {"metric": "ndcg@10", "level": 0.05, "rows": [
                    {"first": "matched", "second": "plain", "mean": mean, "low": mean - 1e-6, "high": mean + 1e-6,
                     "relative": mean}]}}} for s, mean in enumerate(means_S)}
            (row,) = together(runs)["rows"]
            missed[name] += not row["low"] <= 0 <= row["high"]
    assert missed["told"] / drawn < 0.12 < 0.2 < missed["not told"] / drawn
