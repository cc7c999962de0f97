"""What an evaluation's address depends on, and which settings are legal."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.evaluate.config import EASEConfig, EvaluateConfig, EvaluateExecution, TransitionsConfig
from pipeline.evaluate.keys import key

CONFIG = EvaluateConfig()


def test_a_models_key_leaves_baselines_and_execution_out() -> None:
    changed = EvaluateConfig(baselines=("ease",), ease=EASEConfig(l2=7),
                             execution=EvaluateExecution(workers=3, batch_users=5, item_chunk=9))
    assert key(CONFIG, "p", "0123") == key(changed, "p", "0123")


def test_a_baselines_key_holds_its_own_settings_alone() -> None:
    changed = EvaluateConfig(ease=EASEConfig(l2=7))
    assert key(CONFIG, "p", "baseline:ease").fingerprint != key(changed, "p", "baseline:ease").fingerprint
    for name in ("popularity", "transitions", "item_knn"):
        assert key(CONFIG, "p", f"baseline:{name}") == key(changed, "p", f"baseline:{name}")
    other = EvaluateConfig(transitions=TransitionsConfig(popularity_backoff=0.5))
    assert key(CONFIG, "p", "baseline:transitions") != key(other, "p", "baseline:transitions")


@pytest.mark.parametrize("changed", [{"cutoffs": (10,)}, {"filter_seen": False}, {"top_k": 30}, {"tie_seed": 1}])
def test_the_protocol_is_part_of_every_key(changed: dict[str, Any]) -> None:
    for subject in ("0123", "baseline:popularity"):
        assert key(CONFIG, "p", subject) != key(EvaluateConfig(**changed), "p", subject)


def test_inputs_are_part_of_the_key() -> None:
    keys = [key(CONFIG, "p", "0123"), key(CONFIG, "q", "0123"), key(CONFIG, "p", "4567"),
            key(CONFIG, "p", "baseline:popularity"), key(CONFIG, "p", "baseline:ease")]
    assert len({k.fingerprint for k in keys}) == len(keys)


@pytest.mark.parametrize("values", [{"cutoffs": ()}, {"cutoffs": (0, 5)}, {"cutoffs": (10, 5)}, {"cutoffs": (5, 5)},
                                    {"top_k": 10}, {"baselines": ("ease", "ease")}, {"baselines": ("svd",)}])
def test_illegal_settings(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EvaluateConfig(**values)
