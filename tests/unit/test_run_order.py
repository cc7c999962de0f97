"""What a run does before Ray starts, and which artifacts it plans."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.storage import Storage
from configs.errors import ConfigError, ResourceError
from configs.loader import load
from pipeline import run as run_module
from pipeline.config import RunConfig
from pipeline.plan import keys, plan, steps
from pipeline.stages import STAGES

SHIPPED_CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def _config(tmp_path: Path, *overrides: str) -> RunConfig:
    (tmp_path / "encoder").mkdir(exist_ok=True)
    return load(RunConfig, None, ["name=x", f"storage.uri={tmp_path}", f"encode.model={tmp_path / 'encoder'}",
                                  "evaluate.baselines=[]", "arms=[plain, distilled]", *overrides])


def _labels(config: RunConfig, audit: bool = False) -> list[str]:
    return [step.label for step in steps(config, audit)]


def _fingerprints(config: RunConfig) -> dict[str, str]:
    return {step.label: key.fingerprint for step, key in keys(steps(config), Storage.from_config(config.storage))}


def test_item_texts_are_planned_only_where_something_needs_them(tmp_path: Path) -> None:
    plain, text = "arms=[plain]", "train.item_init={kind: text}"
    ends = ["train/plain/seed-0", "evaluate/plain/seed-0"]
    assert _labels(_config(tmp_path, plain)) == ["prepare", *ends]
    assert _labels(_config(tmp_path, plain, text)) == ["prepare", "encode/items", "reduce/items/pca-64", *ends]
    assert _labels(_config(tmp_path, plain), audit=True) == [
        "prepare", "profile", "encode", "encode/items", "audit", *ends]
    both = _labels(_config(tmp_path, text), audit=True)
    assert both[:7] == ["prepare", "profile", "encode", "encode/items", "audit", "reduce", "reduce/items/pca-64"]


def test_every_step_comes_after_its_inputs_and_in_its_stages_place(tmp_path: Path) -> None:
    config = _config(tmp_path, "train.item_init={kind: text}", "arms=[distilled, plain, random]", "seeds=[1, 0]",
                     "evaluate.baselines=[ease]")
    labels: list[str] = []
    for step in steps(config, audit=True):
        assert set(step.inputs) <= set(labels), step.label
        labels.append(step.label)
    assert len(labels) == len(set(labels)) == 7 + 6 + 6 + 1
    order = [list(STAGES).index(label.partition("/")[0]) for label in labels]
    assert order == sorted(order)


def test_what_one_step_is_built_from(tmp_path: Path) -> None:
    config = _config(tmp_path, "train.item_init={kind: text}")
    before = {label: [item.label for item in plan(config, Storage.from_config(config.storage), before=label)]
              for label in ("prepare", "train/plain/seed-0", "train/distilled/seed-0")}
    assert before == {
        "prepare": [], "train/plain/seed-0": ["prepare", "encode/items", "reduce/items/pca-64"],
        "train/distilled/seed-0": ["prepare", "profile", "encode", "encode/items", "reduce", "reduce/items/pca-64"]}


def test_item_texts_change_the_keys_of_both_arms_and_of_nothing_before(tmp_path: Path) -> None:
    before = _fingerprints(_config(tmp_path))
    after = _fingerprints(_config(tmp_path, "train.item_init={kind: text}"))
    same = {label for label in before if before[label] == after[label]}
    assert same == {"prepare", "profile", "encode", "reduce"}
    wider = _config(tmp_path, "train.item_init={kind: text, method: umap}",
                    "model={kind: sasrec, hidden_dim: 48}").item_reduce()
    assert (wider.method.kind, wider.method.model_dump()["components"], wider.whiten) == ("umap", 48, False)


def test_a_shortage_is_said_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def no_ray(_: Any) -> None:
        raise ResourceError("Ray would start here")

    monkeypatch.setattr(run_module, "connect", no_ray)
    monkeypatch.setattr(run_module, "_build", lambda *_: SimpleNamespace(fingerprint="0" * 16))
    with pytest.raises(ResourceError, match="Ray would start here"):
        run_module.run(_config(tmp_path, "cluster.num_cpus=2", "profile.execution={actors: 9, num_cpus: 1}"))
    assert "profile asks for 9 CPUs and the local Ray has 2" in capsys.readouterr().err


RECIPES = """recipes={
  text: {train: {item_init: {kind: text}}},
  told: {model: {dropout: 0.3}, train: {item_table: {kind: mapped_text}}},
  matched: {model: {dropout: 0.1}, train: {distill_epochs: 0, ensemble: {
    members: [{arm: plain}, {arm: text}, {arm: told}, {arm: plain, seed: 1}], start: 1}}},
  ids: {train: {distill_epochs: 0, ensemble: {members: [{arm: plain}, {arm: plain, seed: 1}]}},
        control_for: matched}}"""


def test_members_are_trained_once_before_who_learns_from_them_and_are_no_arms(tmp_path: Path) -> None:
    config = _config(tmp_path, RECIPES, "arms=[plain, matched, ids]", "seeds=[0, 1]")
    labels = _labels(config)
    trained = [label.removeprefix("train/") for label in labels if label.startswith("train/")]
    assert trained == ["plain/seed-0", "text/seed-0", "told/seed-0", "plain/seed-1", "matched/seed-0", "ids/seed-0",
                       "text/seed-1", "told/seed-1", "plain/seed-2", "matched/seed-1", "ids/seed-1"]
    assert [label for label in labels if label.startswith("evaluate")] == [
        f"evaluate/{arm}/seed-{seed}" for seed in (0, 1) for arm in ("plain", "matched", "ids")]
    assert labels[:3] == ["prepare", "encode/items", "reduce/items/pca-64"]
    by_label = {step.label: step for step in steps(config)}
    assert by_label["train/matched/seed-0"].inputs == (
        "prepare", "train/plain/seed-0", "train/text/seed-0", "train/told/seed-0", "train/plain/seed-1")
    assert [config.control_for(arm) for arm in config.arms] == [None, None, "matched"]


def test_an_arm_depends_on_what_it_learns_from_and_plain_on_no_recipe(tmp_path: Path) -> None:
    before = _fingerprints(_config(tmp_path, RECIPES, "arms=[plain, matched, ids]"))
    after = _fingerprints(_config(tmp_path, RECIPES, "recipes.told.model.dropout=0.4", "arms=[plain, matched, ids]"))
    changed = {label for label in before if before[label] != after[label]}
    assert changed == {"train/told/seed-0", "train/matched/seed-0", "evaluate/matched/seed-0"}
    assert _fingerprints(_config(tmp_path, "arms=[plain]")).items() <= before.items()


@pytest.mark.parametrize(("override", "message"), [
    ("arms=[plain, mached]", "got 'mached'; legal: plain, distilled, shuffled, random, collaborative, text, told, "
                             "matched, ids, text-start, text-only, matched-plain"),
    ("recipes.matched.train.ensemble={members: [{arm: matched}]}", "cannot learn from itself"),
    ("recipes.told.model.dropout=3", "model.dropout in recipes.told"),
    ("recipes.told.train.epoch=3", "did you mean 'epochs'"),
    ("recipes.ids.control_for=other", "recipes.ids.control_for: got 'other'"),
    ("recipes.plain={}", "got the name 'plain'"),
    ("train.ensemble={members: [{arm: plain}]}", "belongs into the recipe"),
    ("recipes.text.model.max_length=10", "arm matched, member text: model.max_length: got 10; legal: "),
    ("recipes.told.model={kind: bert4rec}", "arm matched, member told: model.kind: got 'bert4rec'"),
    ("recipes.text.model.num_blocks=1", "arm matched, member text: the student starts from it (train.ensemble.start), "
                                        "but their models differ (num_blocks: 1 → 2)"),
    ("recipes.matched.train.ensemble.epochs=900", "ensemble.epochs=900 must not be above epochs="),
    ("recipes.told.train.ensemble={members: [{arm: plain}], start: 0}", "ensemble.start names a member whose item "
                                                                        "embeddings training starts from"),
    ("train.item_table.kind=bounded_change", "keeps every item near what it starts from, and that is random"),
    ("train.place_scale=0.5", "no arm that has it places any; add train.place_untrained=true"),
    ("train.compat=upstream", "early_stopping.patience_epochs=10; legal: 0"),
    ("seeds=[-1]", "seeds.0: got -1; legal: 0 or more"),
    ("seeds=[2147483648]", "legal: less than 2147483648"),
])
def test_recipes_that_cannot_hold_are_refused_in_one_line(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        _config(tmp_path, RECIPES, override)


@pytest.mark.parametrize(("arms", "overrides", "message"), [
    ("plain, matched", ["recipes.matched.teacher=distilled"],
     "arm matched learns from profiles (teacher distilled) in its first train.distill_epochs epochs, and with 0 in "
     "none; legal: 1 or more"),
    ("plain, ids", ["train.distill_epochs=0", "recipes.ids.train.ensemble.members=[{arm: plain}, {arm: distilled}]"],
     "arm distilled learns from profiles (teacher distilled) in its first train.distill_epochs epochs"),
    ("plain, text", ["train.place_untrained=true", "recipes.text.train={place_untrained: false, place_scale: 0.5}"],
     "train.place_scale=0.5 tells how far placed items spread, and no arm that has it places any"),
    ("plain, distilled", ["train.distillation.projection={kind: orthogonal, variance_floor: 1.0}"],
     "arm distilled: train.distillation.projection.variance_floor=1.0 keeps T(profile) from collapsing, but nothing of "
     "T is trained here; legal: 0, or projection.kind=trained or profile_aggregation=attention, with"),
])
def test_only_what_is_trained_is_refused_and_its_members_are_too(tmp_path: Path, arms: str, overrides: list[str],
                                                                 message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        _config(tmp_path, RECIPES, f"arms=[{arms}]", *overrides)
    _config(tmp_path, RECIPES, "arms=[plain]", *(each for each in overrides if "place_untrained=true" not in each))


def test_items_stay_near_what_each_arm_starts_from(tmp_path: Path) -> None:
    config = _config(tmp_path, RECIPES, "arms=[text, matched]", "train.item_table={kind: bounded_change}",
                     "recipes.told.train.item_table={kind: mapped_text}",
                     "recipes.matched.train.ensemble.members=[{arm: text}]", "recipes.matched.train.ensemble.start=0")
    assert config.for_arm("text").train.starts_somewhere and not config.train.starts_somewhere


def test_an_ensemble_outside_a_recipe_is_refused_where_there_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="belongs into the recipe"):
        _config(tmp_path, "train.ensemble={members: [{arm: plain}]}", "arms=[plain]")


def test_shipped_recipes_need_no_writing_and_own_settings_are_laid_over_them(tmp_path: Path) -> None:
    config = _config(tmp_path, "arms=[plain, matched]")
    trained = [label.removeprefix("train/") for label in _labels(config) if label.startswith("train/")]
    assert trained == ["plain/seed-0", "text-start/seed-0", "text-only/seed-0", "matched/seed-0"]
    assert list(config.recipes) == ["matched", "text-start", "text-only"]
    assert not _config(tmp_path).recipes, "what no arm asks for is not there"
    assert load(RunConfig, None, ["name=x"]).recipes == config.recipes, "so it is where no arms are named"
    shorter = _config(tmp_path, "arms=[plain, matched]", "recipes.matched.train.epochs=7", "recipes.other={}")
    assert shorter.members("matched") == config.members("matched")
    assert (shorter.for_arm("matched").train.epochs, config.for_arm("matched").train.epochs) == (7, 24)
    own = "recipes.ids={train: {distill_epochs: 0, ensemble: {members: [{arm: plain}, {arm: text-only}]}}}"
    assert list(_config(tmp_path, "arms=[ids]", own).recipes) == ["ids", "text-only"], "a member brings its recipe"


def test_what_the_recipes_say_is_what_the_study_of_them_was_run_with(data_dir: Path, tmp_path: Path) -> None:
    study = load(RunConfig, SHIPPED_CONFIGS / "study" / "beauty-teachers.yaml", [f"storage.uri={tmp_path}"])
    short = load(RunConfig, SHIPPED_CONFIGS / "beauty-2014" / "sasrec.yaml", [
        f"storage.uri={tmp_path}", "arms=[plain, matched, matched-plain]", "recipes.text-only.train.epochs=80",
        "train.execution.num_workers=0"])
    for arm, studied in (*((name, name) for name in ("plain", "text-start", "text-only", "matched")),
                         ("matched-plain", "matched-ids")):
        assert short.for_arm(arm).train.key() == study.for_arm(studied).train.key()
        assert short.for_arm(arm).model == study.for_arm(studied).model
    assert "encode/items" not in _labels(load(RunConfig, None, ["name=x", "arms=[plain, matched-plain]"]))


@pytest.mark.parametrize("given", ["[matched]", "{matched: 3}", "{matched: {train: {ensemble: [1]}}}",
                                   "{matched: {train: {ensemble: {members: [1]}}}}"])
def test_a_malformed_recipe_of_a_shipped_name_is_refused_in_one_line(tmp_path: Path, given: str) -> None:
    with pytest.raises(ConfigError, match="recipes|ensemble"):
        _config(tmp_path, "arms=[plain, matched]", f"recipes={given}")
