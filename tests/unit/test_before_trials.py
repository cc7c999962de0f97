"""Searches over what stands before `train`: what their combinations need, once, and which of it each trial reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.storage import Storage
from configs.errors import ConfigError
from configs.files import resolve_path
from configs.loader import load, validate
from pipeline.config import RunConfig
from tests.tools import TINY
from tuning.before import Before, Inputs, survey
from tuning.config import TuneConfig
from tuning.search import base_run, tune
from tuning.trial import assign, searched_step

TEXT = {"kind": "text"}


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY + f"storage: {{uri: {tmp_path / 'storage'}}}\n")
    return path


def before(run_file: Path, space: dict[str, Any], *overrides: str) -> Before:
    config = validate(TuneConfig, {"name": "s", "run": str(run_file), "space": {
        setting: given if isinstance(given, dict) else {"kind": "choice", "values": given}
        for setting, given in space.items()}})
    run_config = load(RunConfig, run_file, overrides)
    return survey(run_config.model_dump(mode="json"), config.space)


def steps(found: Before, run_file: Path) -> dict[str, int]:
    """Label → how many artifacts of it the combinations need."""
    storage = Storage.from_config(load(RunConfig, run_file).storage)
    union = {(item.label, item.key.fingerprint) for _, _, planned in found.plans(storage) for item in planned}
    labels = [label for label, _ in union]
    return {label: labels.count(label) for label in sorted(labels)}


def test_settings_of_training_alone_need_what_the_run_needs(run_file: Path) -> None:
    alpha = {"kind": "uniform", "low": 0.1, "high": 0.9}
    found = before(run_file, {"train.alpha": alpha, "model.hidden_dim": [16, 32]})
    assert found.settings == () and steps(found, run_file) == {"prepare": 1, "profile": 1, "encode": 1, "reduce": 1}


@pytest.mark.parametrize(("setting", "values", "arms", "needed"), [
    ("reduce.method.components", [4, 8], "distilled", {"prepare": 1, "profile": 1, "encode": 1, "reduce": 2}),
    ("reduce.method.components", [4], "distilled", {"prepare": 1, "profile": 1, "encode": 1, "reduce": 1}),
    ("profile.form", ["short", "long"], "distilled", {"prepare": 1, "profile": 2, "encode": 2, "reduce": 2}),
    ("encode.prefix", ["", "query: "], "distilled", {"prepare": 1, "profile": 1, "encode": 2, "reduce": 2}),
    ("train.item_init", [None, TEXT], "plain", {"prepare": 1, "encode/items": 1, "reduce/items/pca-16": 1}),
    ("recipes.text-start.train.item_init.whiten", [False, True], "text-start",
     {"prepare": 1, "encode/items": 1, "reduce/items/pca-16": 1, "reduce/items/pca-16-whitened": 1}),
    ("model.hidden_dim", [16, 32], "text-start",
     {"prepare": 1, "encode/items": 1, "reduce/items/pca-16": 1, "reduce/items/pca-32": 1}),
    ("recipes.own.teacher", ["plain", "distilled"], "own", {"prepare": 1, "profile": 1, "encode": 1, "reduce": 1}),
    ("recipes.own.train.ensemble.baselines", [[], [{"kind": "content"}]], "own",
     {"prepare": 1, "encode/items": 1, "train/plain/seed-0": 1}),
    ("recipes.own.train.ensemble.members", [[{"arm": "plain"}], [{"arm": "plain", "seed": 1}, {"arm": "text-start"}]],
     "own", {"prepare": 1, "encode/items": 1, "reduce/items/pca-16": 1, "train/plain/seed-0": 1,
             "train/plain/seed-1": 1, "train/text-start/seed-0": 1}),
    ("train.batch_size", [16, 32], "own", {"prepare": 1, "train/plain/seed-0": 2})])
def test_the_combinations_need_a_union(run_file: Path, setting: str, values: list[Any], arms: str,
                                       needed: dict[str, int]) -> None:
    teachers = "" if setting.endswith("teacher") else "train: {ensemble: {members: [{arm: plain}]}}"
    found = before(run_file, {setting: values, "train.optimizer.weight_decay": [0.0]}, f"arms=[{arms}]",
                   "train.distill_epochs=1", f"recipes={{own: {{{teachers}}}}}")
    assert found.settings == (setting,) and len(found.runs) == len(values)
    assert steps(found, run_file) == dict(sorted(needed.items()))


def test_settings_that_matter_together_are_found_and_conditions_kept(run_file: Path) -> None:
    """The width alone changes nothing of a plain arm, and the start from texts nothing but where it is asked for."""
    text = {"kind": "choice", "values": [None, TEXT]}
    found = before(run_file, {"model.hidden_dim": [16, 32], "train.item_init": text}, "arms=[plain]")
    assert found.settings == ("model.hidden_dim", "train.item_init") and len(found.runs) == 4
    assert steps(found, run_file) == {
        "encode/items": 1, "prepare": 1, "reduce/items/pca-16": 1, "reduce/items/pca-32": 1}
    whiten = {"kind": "choice", "values": [True, False], "when": {"train.item_init.kind": ["text"]}}
    found = before(run_file, {"train.item_init.kind": ["text"], "train.item_init.whiten": whiten}, "arms=[plain]")
    assert len(found.runs) == 2


def test_a_range_over_what_stands_before_training_is_refused(run_file: Path) -> None:
    width = {"kind": "integer", "low": 8, "high": 32}
    with pytest.raises(ConfigError, match=r"space\.reduce\.method\.components\.kind: got 'integer'; legal: choice; .*"):
        before(run_file, {"reduce.method.components": width}, "arms=[distilled]")
    with pytest.raises(ConfigError, match=r"space\.model\.hidden_dim\.kind: got 'integer'; legal: choice"):
        before(run_file, {"train.item_init": [None, TEXT], "model.hidden_dim": width}, "arms=[plain]")
    clip = {"kind": "uniform", "low": 1.0, "high": 2.0}
    with pytest.raises(ConfigError, match=r"'uniform'; legal: choice; .*, or search recipes\.matched\.train\.grad"):
        before(run_file, {"train.gradient_clip": clip}, "arms=[plain, matched]")


def test_an_absurd_union_is_refused_in_one_line(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="of reduce.method.components need more than 1,000 artifacts") as refused:
        before(run_file, {"reduce.method.components": list(range(1, 1200))}, "arms=[distilled]")
    assert "\n" not in str(refused.value)
    monkeypatch.setattr("tuning.before._MOST_COMBINATIONS", 5)
    with pytest.raises(ConfigError, match="reduce.seed, reduce.whiten change .* in more than 5 combinations"):
        before(run_file, {"reduce.seed": [0, 1, 2], "reduce.whiten": [True, False]}, "arms=[distilled]")


def test_values_that_do_not_go_together_need_nothing_and_their_trial_says_so(run_file: Path) -> None:
    found = before(run_file, {"model.num_heads": [1, 4], "model.hidden_dim": [16, 18]}, "arms=[text-start]")
    assert found.settings == ("model.hidden_dim",) and len(found.runs) == 2
    with pytest.raises(ConfigError, match="these values do not go together"):
        Inputs(("model.hidden_dim",), {}).of({"model.hidden_dim": 17})


def test_a_dry_run_counts_what_would_be_built(run_file: Path) -> None:
    path = run_file.parent / "search.yaml"
    path.write_text(f"""
name: wide
run: {run_file.name}
search: {{kind: grid}}
space:
  reduce.method.components: {{kind: choice, values: [4, 8, 12]}}
  train.alpha: {{kind: choice, values: [0.2, 0.4]}}
""")
    lines = tune(path, dry_run=True).lines
    assert lines[0].startswith("search wide: 6 trials of tiny, train/distilled/seed-0")
    assert [line.endswith("(changes what stands before train)") for line in lines[1:3]] == [True, False]
    assert [line.split(":")[0] for line in lines[3:-1]] == [
        "  prepare", "  profile", "  encode", "  reduce", "  reduce", "  reduce"]
    assert lines[-1] == "before the first trial: 6 artifacts of 3 combinations, 6 to build"


def test_a_search_over_what_stands_before_is_read_where_no_data_are() -> None:
    """As `submit` does, on a laptop."""
    path = resolve_path("tune/alpha_beta.yaml")
    space = json.dumps({"encode.model": {"kind": "choice", "values": ["/no/such/model", "/nor/this"]}})
    base_run(load(TuneConfig, path, [f"space={space}"]), path)


def test_what_a_training_reads_is_there_though_nothing_more_is_built_for_it(run_file: Path) -> None:
    """The members read the items' texts already; with the baseline the student does, too."""
    baselines: list[Any] = [[], [{"kind": "content"}]]
    found = before(run_file, {"recipes.matched.train.ensemble.baselines": baselines}, "arms=[plain, matched]")
    assert found.settings == ()
    ((_, config, planned),) = found.plans(Storage.from_config(load(RunConfig, run_file).storage))
    for given in baselines:
        trial = validate(RunConfig, assign(config.model_dump(mode="json"),
                                           {"recipes.matched.train.ensemble.baselines": given}))
        assert set(searched_step(trial).inputs) <= {step.label for step in planned}


def test_a_value_is_surveyed_beside_what_its_condition_asks_for(run_file: Path) -> None:
    losses: list[Any] = [{"kind": "softmax"}, {"kind": "bce"}]
    mapped = {"kind": "mapped_text"}
    found = before(run_file, {
        "train.loss": losses, "train.item_table": {
            "kind": "choice", "values": [None, mapped], "when": {"train.loss": losses[:1]}}},
        "arms=[plain]", "train.loss.kind=bce", "train.distill_epochs=0")
    assert found.settings == ("train.item_table",) and len(found.runs) == 3  # without a condition it is not set
    assert {step.label for _, _, planned in found.plans(Storage.from_config(load(RunConfig, run_file).storage))
            for step in planned} == {"prepare", "encode/items"}


def test_several_sets_of_profiles_with_a_price_are_agreed_to_at_once(run_file: Path) -> None:
    limited = ("arms=[distilled]", "profile.max_cost_without_confirm=10")
    found = before(run_file, {"profile.form": ["short", "long"]}, *limited)
    storage = Storage.from_config(load(RunConfig, run_file).storage)
    with pytest.raises(ConfigError, match="2 sets of profiles.*--yes"):
        found.build(storage, list(found.plans(storage)), confirmed=False)
