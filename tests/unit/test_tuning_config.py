"""The search's settings: what may be searched, and how values reach a trial."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.storage import Storage
from configs.errors import ConfigError
from configs.files import resolve_path
from configs.loader import load, validate
from pipeline.config import RunConfig
from pipeline.train.keys import MODEL_FILES
from tuning.before import Inputs
from tuning.config import TuneConfig
from tuning.search import _conclude, _unequal, base_run, claimed, with_overrides
from tuning.space import COMBINATION, chosen, combinations, encode, suggest
from tuning.trial import TUNED, assign, searched_step, trial, trial_config

SPACE = {"train.alpha": {"kind": "uniform", "low": 0.1, "high": 0.9}}


@pytest.mark.parametrize(("name", "run"), [
    ("alpha_beta", "study-synthetic"), ("aggregation", "study-synthetic"), ("objectives", "study-synthetic"),
    ("beauty-text-start", "beauty-2014-sasrec"), ("beauty-plain", "beauty-2014-sasrec"),
    ("beauty-matched", "study-beauty-tuned")])
def test_shipped_searches_fit_their_runs(name: str, run: str) -> None:
    path = resolve_path(f"tune/{name}.yaml")
    values, run_config = base_run(load(TuneConfig, path), path)
    assert validate(RunConfig, values) == run_config
    assert run_config.name == run


def test_that_settings_of_plain_were_searched_for_another_arm_is_told() -> None:
    """A search of plain itself, or of what plain does not have, leaves the comparison as it is."""
    def told(name: str, *overrides: str) -> list[str]:
        path = resolve_path(f"tune/{name}.yaml")
        config = with_overrides(path, overrides)
        values, run_config = base_run(config, path)
        return list(_unequal(config, values, run_config))

    assert told("alpha_beta") == told("beauty-plain") == told("beauty-text-start") == []
    (found,) = told("beauty-text-start", "arms=[plain, text-start]")
    assert found.startswith("Searched for text-start alone, and set for plain too: train.optimizer.lr, "
                            "train.optimizer.weight_decay, model.dropout, model.num_heads. Before")


def test_what_validation_does_not_see_is_not_searched() -> None:
    path = resolve_path("tune/beauty-text-start.yaml")
    space = "space={train.place_untrained: {kind: choice, values: [true, false]}}"
    with pytest.raises(ConfigError, match="place_untrained moves items at export, after the validation that trials"):
        base_run(with_overrides(path, [space]), path)
    space = "space={train.place_scale: {kind: uniform, low: 0.5, high: 1.0}}"
    with pytest.raises(ConfigError, match="place_untrained moves items at export"):
        base_run(with_overrides(path, [space, "train.place_untrained=true"]), path)
    with pytest.raises(ConfigError, match="tells how far placed items spread, and no arm that has it places any"):
        base_run(with_overrides(path, [space]), path)


def test_settings_of_the_run_may_stand_beside_those_of_the_search() -> None:
    path = resolve_path("tune/beauty-text-start.yaml")
    config = with_overrides(path, ["name=mine", "storage.uri=elsewhere", "search.trials=3", "train.epochs=5"])
    _, run_config = base_run(config, path)
    assert (config.name, config.search.trials) == ("mine", 3)  # type: ignore[union-attr]
    assert (run_config.name, run_config.storage.uri, run_config.train.epochs) == ("beauty-2014-sasrec", "elsewhere", 5)
    with pytest.raises(ConfigError, match="unknown setting 'storages'"):
        with_overrides(path, ["storages.uri=elsewhere"])
    with pytest.raises(ConfigError, match=r"unknown setting .*storage\.url"):
        base_run(with_overrides(path, ["storage.url=elsewhere"]), path)


@pytest.mark.parametrize(("change", "message"), [
    ({"space": {"prepare.seed": {"kind": "choice", "values": [1]}}},
     "of train, model, reduce, encode, profile, or of a recipe's train, model, teacher"),
    ({"space": {"recipes.x.control_for": {"kind": "choice", "values": ["plain"]}}}, "recipe's train, model, teacher"),
    ({"search": {"kind": "grid"}}, "a grid needs kind=choice"),
    ({"space": {"train.alpha": {"kind": "uniform", "low": 0.9, "high": 0.1}}}, "must be below"),
    ({"space": {}}, "space"),
    ({"name": "a/b"}, "names a folder"),
    ({"search": {"kind": "random"}}, "optuna"),
    ({"seed": -1}, "seed"),
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
    config = trial_config(values, chosen({"train.alpha": 0.25, "train.beta": "true",
                                          "train.distillation.pooling": '{"gamma": 0.05, "kind": "exponential"}'}))
    assert (config.train.alpha, config.train.beta) == (0.25, True)
    assert config.train.distillation.pooling.model_dump() == {"kind": "exponential", "gamma": 0.05}
    assert config.train.execution.num_workers == 0


def test_a_recipe_with_workers_of_its_own_is_searched_in_one_process_too() -> None:
    values = load(RunConfig, "demo.yaml", ["recipes={wide: {train: {execution: {num_workers: 2}}}}", "arms=[wide]"]
                  ).model_dump(mode="json")
    config = trial_config(values, {"train.optimizer.lr": 0.1})
    assert [config.for_arm(arm).train.execution.num_workers for arm in ("plain", "wide")] == [0, 0]
    assert values["recipes"]["wide"]["train"]["execution"] == {"num_workers": 2}


def test_trials_by_workers_have_as_many_whatever_the_run_has() -> None:
    values = load(RunConfig, "demo.yaml", ["recipes={wide: {train: {execution: {num_workers: [2, 4]}}}}", "arms=[wide]",
                                           "train.execution={num_workers: 2, shard_item_table: true}",
                                           "train.loss={kind: bce}", "train.optimizer.table=rowwise"
                                           ]).model_dump(mode="json")
    for workers, divided in ((1, False), (3, True)):
        config = trial_config(values, {}, workers)
        ran = [config.for_arm(arm).train.execution for arm in ("wide", "plain")]
        assert [(each.num_workers, each.shard_item_table) for each in ran] == [(workers, divided), (2, True)]
    for name in ("cpus_per_trial", "gpus_per_trial"):
        with pytest.raises(ConfigError, match=f"{name}=0.5 is of a trial that trains in its own process; with"):
            load(TuneConfig, "tune/alpha_beta.yaml", [f"execution={{workers_per_trial: 2, {name}: 0.5}}"])


def test_a_model_to_start_from_is_found_from_a_trials_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    for name in MODEL_FILES:
        Path("model", name).touch()
    path = resolve_path("tune/alpha_beta.yaml")
    overrides = "overrides=[train.init_from=model, 'recipes={own: {train: {init_from: 0123456789abcdef}}}']"
    values, run_config = base_run(load(TuneConfig, path, [overrides]), path)
    assert (values["train"]["init_from"], run_config.train.init_from) == (str(tmp_path / "model"), "model")
    assert values["recipes"]["own"]["train"]["init_from"] == "0123456789abcdef"
    searched = with_overrides(path, ["space={train.init_from: {kind: choice, values: [null, model, "
                                     "0123456789abcdef]}}"])
    assert searched.space["train.init_from"].model_dump()["values"] == (
        None, str(tmp_path / "model"), "0123456789abcdef")


def test_the_distilled_arm_is_searched() -> None:
    assert searched_step(load(RunConfig, "demo.yaml")).label == "train/distilled/seed-0"
    assert searched_step(load(RunConfig, "demo.yaml", ["arms=[plain]"])).label == "train/plain/seed-0"


def test_gpus_of_a_trial_follow_the_run() -> None:
    path = resolve_path("tune/alpha_beta.yaml")
    with pytest.raises(ConfigError, match=r"execution.gpus_per_trial: got 0.5.*use_gpu=true"):
        base_run(load(TuneConfig, path, ["execution.gpus_per_trial=0.5"]), path)
    given = load(TuneConfig, path, ["execution.gpus_per_trial=0.5", "overrides=[train.execution.use_gpu=true]"])
    assert base_run(given, path)[1].train.execution.use_gpu


POOLED = {"train.distillation.pooling.kind": {"kind": "choice", "values": ["mean", "exponential"]},
          "train.distillation.pooling.gamma": {"kind": "choice", "values": [0.05, 0.1],
                                               "when": {"train.distillation.pooling.kind": ["exponential"]}},
          "train.beta": {"kind": "choice", "values": [True, False]}}


def test_a_setting_that_means_nothing_is_in_no_combination() -> None:
    space = validate(TuneConfig, {"name": "s", "run": "demo.yaml", "space": POOLED, "search": {"kind": "grid"}}).space
    found = list(combinations(space))
    kind, gamma = "train.distillation.pooling.kind", "train.distillation.pooling.gamma"
    assert [(one[kind], one.get(gamma)) for one in found] == [
        ("mean", None), ("mean", None), ("exponential", 0.05), ("exponential", 0.05), ("exponential", 0.1),
        ("exponential", 0.1)]
    assert all(gamma in one or one[kind] == "mean" for one in found)
    assert chosen({COMBINATION: encode(found[2])}) == found[2]


def test_optuna_is_asked_only_for_what_means_something() -> None:
    import optuna

    config = validate(TuneConfig, {"name": "s", "run": "demo.yaml", "space": POOLED | {
        "model.num_blocks": {"kind": "integer", "low": 1, "high": 3}, "train.alpha": SPACE["train.alpha"]}})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [chosen(suggest(config.space, study.ask())) for _ in range(30)]
    for one in drawn:
        exponential = one["train.distillation.pooling.kind"] == "exponential"
        assert ("train.distillation.pooling.gamma" in one) == exponential
        assert one["model.num_blocks"] in (1, 2, 3) and 0.1 <= one["train.alpha"] <= 0.9
    assert {one["train.distillation.pooling.kind"] for one in drawn} == {"mean", "exponential"}


def test_a_condition_names_what_stands_before_it() -> None:
    turned = dict(reversed(POOLED.items()))
    with pytest.raises(ConfigError, match="pooling.kind is not searched; legal: what stands before it"):
        validate(TuneConfig, {"name": "s", "run": "demo.yaml", "space": turned})


def test_a_conditional_setting_is_checked_beside_its_condition() -> None:
    path = resolve_path("tune/alpha_beta.yaml")
    base_run(load(TuneConfig, path, [f"space={json.dumps(POOLED)}"]), path)


def space_of(setting: str, values: list[object], *overrides: str) -> None:
    path = resolve_path("tune/alpha_beta.yaml")
    space = {setting: {"kind": "choice", "values": values}}
    base_run(load(TuneConfig, path, [f"space={json.dumps(space)}", f"overrides={json.dumps(overrides)}"]), path)


def test_a_setting_that_changes_nothing_of_the_searched_arm_is_refused() -> None:
    """Trials that are all the same training would be ranked by nothing."""
    for setting, values in (("train.alpha", [0.2, 0.4]), ("recipes.text-only.train.place_untrained", [False]),
                            ("reduce.whiten", [True, False]), ("encode.prefix", ["", "query: "])):
        with pytest.raises(ConfigError, match=rf"space\.{setting}: none .*matched.*recipes\.matched\.{setting}"):
            space_of(setting, [*values, *values[-1:]], "arms=[plain,matched]")
    space_of("train.optimizer.lr", [1e-3, 2e-3], "arms=[plain]")
    space_of("recipes.matched.train.optimizer.lr", [1e-3, 2e-3], "arms=[plain,matched]")


def test_a_search_s_winner_must_have_a_name() -> None:
    with pytest.raises(ConfigError, match="at most 95"):
        validate(TuneConfig, {"name": "a" * 96, "run": "demo.yaml", "space": SPACE})


def test_a_setting_that_changes_what_validation_measures_is_refused() -> None:
    """Figures of another measure, list or sample of users cannot be ranked with the others."""
    for name, values in (("filter_seen", [True, False]), ("validation_metric", ["ndcg@10", "recall@20"]),
                         ("validation_users", [50, 100])):
        with pytest.raises(ConfigError, match=rf"train\.{name} changes what validation measures"):
            space_of(f"train.{name}", values)
    with pytest.raises(ConfigError, match=r"plain is validated with the users' profiles where train\.profile_input"):
        space_of("train.profile_input", [None, {}], "arms=[plain]")
    with pytest.raises(ConfigError, match=r"space\.recipes\.matched\.train\.validation_metric: train\."):
        space_of("recipes.matched.train.validation_metric", ["ndcg@10", "mrr@5"], "arms=[plain,matched]")


def test_a_search_goes_on_wherever_and_however_it_is_computed() -> None:
    path = resolve_path("tune/alpha_beta.yaml")

    def begun(*overrides: str) -> dict[str, Any]:
        config = with_overrides(path, overrides)
        return claimed(config, base_run(config, path)[1])

    assert begun() == begun("cluster.num_cpus=3", "storage.uri=elsewhere", "train.execution.log_every_steps=7",
                            "reduce.execution={actors: 0}", "execution.concurrent_trials=2")
    assert begun() != begun("train.gradient_clip=2.0") and begun() != begun("seed=1")
    assert begun() != begun("execution.workers_per_trial=1") != begun("execution.workers_per_trial=2")


@pytest.mark.parametrize(("seeds", "message"), [("[-1]", "legal: 0 or more"), ("[1, 1]", "each seed may stand once")])
def test_final_seeds_are_seeds(seeds: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"final_seeds.*{message}"):
        load(TuneConfig, "tune/alpha_beta.yaml", [f"final_seeds={seeds}"])


def test_the_winner_s_file_is_read_as_it_was_written(storage: Storage) -> None:
    """Words that YAML 1.1 tells from numbers, and 1.2 does not."""
    path = resolve_path("tune/alpha_beta.yaml")
    config = load(TuneConfig, path, ["overrides=['recipes={\"08\": {}, \"1e5\": {}}']"])
    values, run_config = base_run(config, path)
    row = {"trial": "t", "status": "finished", "metric": 0.1, "epochs": 3, "seconds": 1.0, "fingerprint": "f",
           "train.alpha": 0.4, "train.beta": True, "reason": ""}
    result = _conclude(config, values, run_config, storage, "tune/s", [row])
    best = load(RunConfig, storage.path("tune/s/best.yaml"))
    assert best == result.best and set(best.recipes) == {"08", "1e5"}


def test_a_trial_that_was_trained_before_tells_its_epochs_as_it_did(storage: Storage, monkeypatch: pytest.MonkeyPatch
                                                                    ) -> None:
    """ASHA compares trials at the same epoch: the final best at the last one alone would stop those that come later."""
    values = load(RunConfig, "demo.yaml", ["train.distill_epochs=1"]).model_dump(mode="json")
    history = [{"epoch": epoch, "phase": 1 if epoch == 1 else 2, "ndcg@10": value}
               for epoch, value in enumerate((0.9, 0.2, 0.4, 0.3), 1)]
    info = {"epochs": 4, "best_validation": 0.4, "history": history}
    told: list[dict[str, Any]] = []
    monkeypatch.setattr("tuning.trial.find_or_build",
                        lambda *given, **named: SimpleNamespace(manifest=SimpleNamespace(info=info)))
    monkeypatch.setattr("ray.tune.report", told.append)
    step = searched_step(validate(RunConfig, values))
    found: Any = {label: SimpleNamespace(fingerprint="f") for label in step.inputs}
    trial({}, {"values": values, "storage": storage, "folder": "tune/s", "inputs": Inputs((), {"{}": found}),
               "workers": 0})
    assert [(one["epoch"], one[TUNED], one["metric"], one["best"]) for one in told] == [
        (2, 1, 0.2, 0.2), (3, 2, 0.4, 0.4), (4, 3, 0.3, 0.4), (4, 3, 0.4, 0.4)]
