"""The search's settings: what may be searched, and how values reach a trial."""

from __future__ import annotations

import pytest

from configs.errors import ConfigError
from configs.files import resolve_path
from configs.loader import load, validate
from pipeline.config import RunConfig
from tuning.config import TuneConfig
from tuning.search import base_run
from tuning.trial import assign, searched_step, trial_config

SPACE = {"train.alpha": {"kind": "uniform", "low": 0.1, "high": 0.9}}


def test_shipped_search_fits_its_run() -> None:
    path = resolve_path("tune/alpha_beta.yaml")
    values, run_config = base_run(load(TuneConfig, path), path)
    assert validate(RunConfig, values) == run_config
    assert run_config.name == "ml-latest-small-sasrec"


@pytest.mark.parametrize(("change", "message"), [
    ({"space": {"prepare.seed": {"kind": "choice", "values": [1]}}}, "below train or model"),
    ({"search": {"kind": "grid"}}, "a grid needs kind=choice"),
    ({"space": {"train.alpha": {"kind": "uniform", "low": 0.9, "high": 0.1}}}, "must be below"),
    ({"space": {}}, "space"),
    ({"name": "a/b"}, "names a folder"),
    ({"search": {"kind": "random"}}, "optuna"),
])
def test_bad_search_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(TuneConfig, {"name": "s", "run": "demo.yaml", "space": SPACE, **change})


def test_searched_setting_must_exist_and_be_legal() -> None:
    path = resolve_path("tune/alpha_beta.yaml")
    for space in ("{train.alfa: {kind: choice, values: [0.1]}}", "{train.alpha: {kind: uniform, low: 0.5, high: 2}}"):
        with pytest.raises(ConfigError, match="train"):
            base_run(load(TuneConfig, path, [f"space={space}"]), path)


def test_choice_of_another_kind_replaces_the_group() -> None:
    values = load(RunConfig, "demo.yaml", ["train.distillation.pooling={kind: exponential, gamma: 0.3}"]).model_dump(
        mode="json")
    pooling = assign(values, {"train.distillation.pooling": {"kind": "mean"}})["train"]["distillation"]["pooling"]
    assert pooling == {"kind": "mean"}
    assert values["train"]["distillation"]["pooling"] == {"kind": "exponential", "gamma": 0.3}


def test_trial_trains_in_its_own_process_with_decoded_choices() -> None:
    values = load(RunConfig, "demo.yaml").model_dump(mode="json")
    config = trial_config(values, {"train.alpha": 0.25, "train.beta": "true",
                                   "train.distillation.pooling": '{"gamma": 0.05, "kind": "exponential"}'})
    assert (config.train.alpha, config.train.beta) == (0.25, True)
    assert config.train.distillation.pooling.model_dump() == {"kind": "exponential", "gamma": 0.05}
    assert config.train.execution.num_workers == 0


def test_the_distilled_arm_is_searched() -> None:
    assert searched_step(load(RunConfig, "demo.yaml")).label == "train/distilled/seed-0"
    assert searched_step(load(RunConfig, "demo.yaml", ["arms=[plain]"])).label == "train/plain/seed-0"


def test_gpus_of_a_trial_follow_the_run() -> None:
    path = resolve_path("tune/alpha_beta.yaml")
    with pytest.raises(ConfigError, match=r"execution.gpus_per_trial: got 0.5.*use_gpu=true"):
        base_run(load(TuneConfig, path, ["execution.gpus_per_trial=0.5"]), path)
    given = load(TuneConfig, path, ["execution.gpus_per_trial=0.5", "overrides=[train.execution.use_gpu=true]"])
    assert base_run(given, path)[1].train.execution.use_gpu
