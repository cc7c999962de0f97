"""Settings of a search that bear on each other: members and workers, groups and what lies in them, conditions."""

from __future__ import annotations

import re
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.files import resolve_path
from configs.loader import load, validate
from pipeline.config import RunConfig
from tuning.before import chosen_of, survey
from tuning.config import Choice, TuneConfig
from tuning.effect import chain
from tuning.search import _trained_anew, base_run
from tuning.trial import trial_config


def test_a_winner_s_teachers_are_those_that_its_trial_had() -> None:
    """Members train as the run says, before the trials and from best.yaml."""
    values = load(RunConfig, "demo.yaml", ["arms=[matched]", "train.execution.num_workers=1"]).model_dump(mode="json")
    own = {"model.dropout": 0.2}
    before = survey(values, {"model.dropout": Choice(values=(0.1, 0.2))}).runs[chosen_of(own, own)]
    *members, (label, _) = chain(before).items()
    found = chain(trial_config(values, own, 2))
    assert len(members) > 3 and set(members) < set(found.items())
    assert found[label] != chain(trial_config(values, own, 3))[label]


def test_that_the_winner_is_another_training_than_its_trial_is_told() -> None:
    values = load(RunConfig, "demo.yaml", ["train.execution.num_workers=2"]).model_dump(mode="json")
    alone, best = trial_config(values, {}), trial_config(values, {}, 2)
    assert list(_trained_anew(alone, alone)) == list(_trained_anew(best, best)) == []
    (told,) = _trained_anew(best, alone)
    assert told.startswith("The best trial trained in its own process. By the 2 workers of best.yaml, whose dropout")


@pytest.mark.parametrize(("space", "told"), [
    ({"model.hidden_dim": [32, 128], "model.kind": ["sasrec", "gru4rec"]},
     "space.model.kind: another value replaces all of model, model.hidden_dim too, which stands before it; name "
     "model.kind first"),
    ({"train.ensemble.perturb": [None, {"crop": 0.5}], "train.ensemble.perturb.drop": [0.1, 0.2]},
     "space.train.ensemble.perturb.drop: train.ensemble.perturb is searched too, and lies above it; say with which of "
     "its values this one means something"),
    ({"train.execution.num_workers": [1, 2]}, "space.train.execution.num_workers: by what a trial is trained is not")])
def test_settings_that_would_undo_each_other_are_refused(space: dict[str, list[Any]], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        validate(TuneConfig, {"name": "s", "run": "demo.yaml", "space": {
            setting: {"kind": "choice", "values": values} for setting, values in space.items()}})


def test_conditions_of_conditions_hold_where_a_setting_is_checked() -> None:
    path = resolve_path("tune/alpha_beta.yaml")
    space = ("space={train.loss.kind: {kind: choice, values: [softmax, sampled_softmax]}, "
             "train.loss.source: {kind: choice, values: [uniform, popularity], "
             "when: {train.loss.kind: [sampled_softmax]}}, "
             "train.loss.log_q: {kind: choice, values: [true, false], when: {train.loss.source: [popularity]}}}")
    assert len(base_run(load(TuneConfig, path, [space]), path)[1].arms) > 0
