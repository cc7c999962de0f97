"""Profiles are built from the training part alone."""

from __future__ import annotations

import pytest

from cluster.storage import Storage
from configs.errors import LeakageError
from pipeline.profile import keys
from pipeline.profile.config import KeywordsEngine, ProfileConfig
from pipeline.profile.guards import check_training_part
from tests.texts import make_text_prepared


def test_histories_that_are_the_training_part_pass(storage: Storage) -> None:
    check_training_part(make_text_prepared(storage))


def test_one_interaction_too_many_stops_the_stage(storage: Storage) -> None:
    with pytest.raises(LeakageError, match="are not the .* of the training part"):
        check_training_part(make_text_prepared(storage, leak=True))


def test_what_is_said_enters_the_key_and_what_is_accepted_does_not() -> None:
    config = ProfileConfig()
    base = keys.key(config, "fp")
    assert keys.key(config.model_copy(update={"max_rejected_fraction": 0.5}), "fp") == base
    assert keys.key(config.model_copy(update={"form": "short"}), "fp") != base
    assert keys.key(config.model_copy(update={"engine": KeywordsEngine(max_terms=3)}), "fp") != base
    assert keys.key(config, "other") != base
    assert keys.key(config.model_copy(update={"users": 50}), "fp") != base
    assert base.digests == {"engine": "keywords-1"}
