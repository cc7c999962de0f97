"""What is claimed of figures that are made up: seeds, users and flips that are too few, and the words beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from configs.errors import ConfigError
from configs.loader import validate
from pipeline.report.claims import claims
from pipeline.report.config import ReportConfig
from pipeline.report.scores import Answers
from pipeline.report.tables import training

USERS = 200


class _Made(Answers):
    """Answers whose values are given: arm → [S, N]."""

    def _values(self, arm: str, protocol: str) -> dict[str, np.ndarray]:
        values: Any = self.arms[arm]
        return {"ndcg@10": values}


def claimed(values: dict[str, np.ndarray], **settings: Any) -> dict[str, Any]:
    nothing: Any = None
    given: Any = values
    control_for = {arm: "matched" if arm.startswith("control") else None for arm in values}
    found = _Made(nothing, given, {}, (10,), control_for).claims("seen_removed", ReportConfig(**settings))
    assert found is not None
    return found


def gaining(by_seed: list[float], users: int = USERS) -> dict[str, np.ndarray]:
    """Plain at a half, and an arm that gains so much with each seed; users differ a little."""
    noise = np.random.default_rng(0).normal(scale=0.01, size=(len(by_seed), users))
    return {"plain": np.full((len(by_seed), users), 0.5), "matched": 0.5 + np.array(by_seed)[:, None] + noise}


def shown(values: dict[str, np.ndarray], **settings: Any) -> bool:
    return bool(claimed(values, **settings)["rows"][0]["shown"])


def test_two_seeds_that_disagree_show_nothing_and_those_that_agree_do() -> None:
    assert not shown(gaining([0.02, 0.1]))  # both above 0, and for users alone beyond all doubt
    assert shown(gaining([0.06, 0.061]))
    assert shown(gaining([0.04, 0.05, 0.06, 0.07, 0.05]))


def test_few_users_show_nothing() -> None:
    for users, expected in ((1, False), (9, False), (20, True)):
        assert shown(gaining([0.5], users)) is expected


def test_many_comparisons_get_as_many_flips_as_they_take() -> None:
    values = gaining([0.06, 0.06, 0.06]) | {f"control-{n}": np.full((3, USERS), 0.5) for n in range(9)}
    found = claimed(values, permutations=100, confidence=0.99)
    assert found["permutations"] >= 10 * 10 / 0.01
    assert all(row["shown"] for row in found["rows"])
    assert claimed(values)["permutations"] == 2000


def test_the_note_tells_what_plain_against_plain_can_find() -> None:
    def note(seeds: int) -> str:
        table = claims({"claims": claimed(gaining([0.06] * seeds)), "main_protocol": "seen_removed"})
        assert table is not None
        return table.note

    assert "2 seeds against 2 others" in note(5) and "is no test: that takes four seeds" in note(3)
    assert "must read" not in note(1) + note(3)


def test_the_correction_is_of_other_seeds_too() -> None:
    """One of eight pairs whose interval over seeds lies above 0: alone it is shown, in its family it is not."""
    rng = np.random.default_rng(0)
    values = gaining([0.05, 0.06, 0.09])
    nothing = {f"control-{n}": values["matched"] - rng.normal(scale=0.01, size=(3, USERS)) for n in range(7)}
    alone, among = claimed(values)["rows"][0], claimed(values | nothing)["rows"][0]
    assert alone["low"] > 0 and 0.005 < alone["p"] == among["p"] < 0.05  # flips of many users: 0.0005
    assert alone["shown"] and not among["shown"] and among["p_holm"] == pytest.approx(8 * among["p"])


def test_plain_against_plain_finds_a_gross_error_and_nothing_else() -> None:
    """Four seeds: halves that differ by what no seed explains, halves that do not; two seeds are no test."""
    values = gaining([0.0] * 4)
    noise = np.random.default_rng(1).normal(scale=0.01, size=(4, USERS))
    for shift, seeds, expected in ((0.0, 4, (True, False)), (0.1, 4, (True, True)), (0.1, 2, (False, False))):
        plain = noise + 0.5 + shift * np.array([1, 1, 0, 0])[:, None]
        chance = claimed({name: each[4 - seeds :] if seeds == 4 else each[1:3] for name, each in (
            ("plain", plain), ("matched", values["matched"]))})["chance"]
        assert (chance["testable"], chance["shown"]) == expected


def test_a_base_of_0_has_no_relative_size() -> None:
    found = claimed({"plain": np.zeros((1, USERS)), "matched": np.random.default_rng(0).uniform(size=(1, USERS))})
    table = claims({"claims": found, "main_protocol": "seen_removed"})
    assert table is not None and found["rows"][0]["relative"] is None and table.rows[0][2] == "–"


def test_trainings_that_are_chosen_by_other_metrics_name_them() -> None:
    run = {"metric": "ndcg@10", "best_epoch": 3, "best_validation": 0.05, "epochs_run": 4, "stopped_early": False,
           "ranking": [1.0]}
    table = training({"training": {"plain": {"0": run}}, "cost": {}})
    assert (table.header[3], table.rows[0][3]) == ("validation ndcg@10", "0.0500")
    table = training({"training": {"plain": {"0": run}, "mine": {"0": run | {"metric": "mrr@5"}}}, "cost": {}})
    assert (table.header[3], [row[3] for row in table.rows]) == ("validation", ["0.0500 (ndcg@10)", "0.0500 (mrr@5)"])


def test_a_seed_below_0_is_refused_before_anything_is_trained() -> None:
    for seed in (-1, 2**32):
        with pytest.raises(ConfigError, match="seed"):
            validate(ReportConfig, {"seed": seed})
