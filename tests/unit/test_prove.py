"""What a proof derives from a run: arms with equal budgets, seeds, the family of comparisons, and its record."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import pipeline.plan
import pipeline.run
from cluster.storage import Storage
from configs.errors import ConfigError
from configs.loader import dump, load
from pipeline.config import RunConfig
from pipeline.family import compared
from pipeline.plan import keys, plan, steps
from pipeline.prove.fixed import fix, require_as_fixed
from pipeline.prove.proof import Proof, derive, dry_run_lines, prove, trainings
from pipeline.report.caveats import caveats

RECIPES = """recipes={
  text: {train: {item_init: {kind: text}}},
  told: {model: {dropout: 0.3}, train: {item_table: {kind: mapped_text}, epochs: 40, distill_epochs: 0}},
  matched: {model: {dropout: 0.1}, train: {distill_epochs: 0, epochs: 10, ensemble: {
    members: [{arm: plain}, {arm: text}, {arm: told, weight: 2}], start: 1, temperature: 2}}}}"""


def config(tmp_path: Path, *overrides: str) -> RunConfig:
    (tmp_path / "encoder").mkdir(exist_ok=True)
    return load(RunConfig, None, ["name=x", f"storage.uri={tmp_path}", f"encode.model={tmp_path / 'encoder'}",
                                  "evaluate.baselines=[]", "train.epochs=20", "arms=[plain, distilled]", *overrides])


def matched(tmp_path: Path, *overrides: str) -> RunConfig:
    return derive(config(tmp_path, RECIPES, "arms=[plain, matched]", *overrides)).config


def members(found: RunConfig, arm: str) -> list[tuple[str, int, float]]:
    return [(member.arm, member.seed, member.weight) for member in found.members(arm)]


def test_without_its_texts_an_arm_has_nothing_to_stay_near_to(tmp_path: Path) -> None:
    near = "recipes={near: {train: {item_init: {kind: text}, item_table: {kind: bounded_change}}}}"
    proof = derive(config(tmp_path, near, "arms=[plain, near]"))
    assert "near-ids" not in proof.config.arms, "it is the plain arm"
    kept = derive(config(tmp_path, near, "arms=[plain, near]", "recipes.near.model.dropout=0.7")).config
    assert kept.for_arm("near-ids").train.item_table is None
    assert kept.for_arm("near-random").train.item_table is not None


def test_a_profile_teacher_gets_every_kind_of_vectors_and_five_seeds(tmp_path: Path) -> None:
    proof = derive(config(tmp_path, "seeds=[3]"))
    assert proof.config.arms == ("plain", "distilled", "shuffled", "random", "collaborative")
    assert proof.config.seeds == (3, 4, 5, 6, 7)
    assert proof.config.name == "x-proof"
    assert proof.family == [("distilled", other) for other in ("plain", "shuffled", "random", "collaborative")]
    assert derive(config(tmp_path, "seeds=[8, 1]", "prove.seeds=3")).config.seeds == (8, 1, 9)
    assert derive(config(tmp_path, "seeds=[0, 1, 2]", "prove.seeds=2")).config.seeds == (0, 1, 2)


def test_an_ensembles_controls_exchange_its_members_and_nothing_else(tmp_path: Path) -> None:
    found = matched(tmp_path)
    assert found.arms == ("plain", "matched", *(f"matched-{kind}" for kind in (
        "shuffled", "random", "collaborative", "ids", "longer")))
    assert members(found, "matched-ids") == [("plain", 0, 1.0), ("plain", 5, 1.0), ("plain", 10, 2.0)]
    for kind in ("shuffled", "random", "collaborative"):
        assert members(found, f"matched-{kind}") == [("plain", 0, 1.0), (f"text-{kind}", 0, 1.0),
                                                     (f"told-{kind}", 0, 2.0)]
        text, told = (found.for_arm(f"{name}-{kind}").train for name in ("text", "told"))
        assert text.item_init is not None and text.item_init.control == kind
        assert told.item_table is not None and told.item_table.model_dump()["control"] == kind
        assert (text.epochs, told.epochs) == (20, 40)
    budgets = set()
    for arm in ("matched", "matched-shuffled", "matched-random", "matched-collaborative", "matched-ids"):
        own = found.for_arm(arm)
        rest = own.model_dump(mode="json", include={"model", "train"})
        rest["train"]["ensemble"] |= {"members": len(own.members(arm))}
        budgets.add(dump(own.model_copy(update={"train": own.train.model_copy(update={"ensemble": None})})))
        assert (rest["train"]["ensemble"]["start"], rest["train"]["ensemble"]["temperature"]) == (1, 2.0)
    assert len(budgets) == 1


def test_baselines_that_read_texts_are_exchanged_and_replaced_too(tmp_path: Path) -> None:
    """Alone, they make an arm one that reads; item-kNN stands for them among ids, once."""
    def baselines(found: RunConfig, arm: str) -> list[tuple[str, Any]]:
        ensemble = found.for_arm(arm).train.ensemble
        assert ensemble is not None
        return [(each.kind, getattr(each, "control", None)) for each in ensemble.baselines]

    recipes = """recipes={lean: {train: {distill_epochs: 0, ensemble: {
      members: [{arm: plain}], start: 0, baselines: [{kind: content, scale: 3}, {kind: transitions}]}}}}"""
    found = derive(config(tmp_path, recipes, "arms=[plain, lean]")).config
    assert found.arms == ("plain", "lean", *(f"lean-{kind}" for kind in (
        "shuffled", "random", "collaborative", "ids", "longer")))
    for kind in ("shuffled", "random", "collaborative"):
        assert baselines(found, f"lean-{kind}") == [("content", kind), ("transitions", None)]
        own = found.for_arm(f"lean-{kind}").train.ensemble
        assert own is not None and own.baselines[0].scale == 3
    assert baselines(found, "lean-ids") == [("item_knn", None), ("transitions", None)]
    assert members(found, "lean-ids") == members(found, "lean") == [("plain", 0, 1.0)]
    both = derive(config(tmp_path, recipes.replace("{kind: transitions}", "{kind: item_knn, scale: 9}"), "arms=[lean]"))
    kept = both.config.for_arm("lean-ids").train.ensemble
    assert kept is not None and [each.model_dump()["scale"] for each in kept.baselines] == [9]
    twice = recipes.replace("{kind: transitions}]", "{kind: transitions, window: 1}, {kind: transitions}]")
    assert len(baselines(derive(config(tmp_path, twice, "arms=[plain, lean]")).config, "lean-ids")) == 3
    bare = matched(tmp_path).recipes["matched-shuffled"].train["ensemble"]
    assert "baselines" not in bare  # a proof that was begun before there were any goes on
    said = "\n".join(dry_run_lines(derive(config(tmp_path, recipes, "arms=[plain, lean]"))))
    assert re.search(r"^lean-random +lean +ensemble +\d+ +plain, content \(random\), transitions$", said, re.MULTILINE)


def test_longer_training_has_all_epochs_of_the_teacher_and_its_members(tmp_path: Path) -> None:
    """plain 20 + text 20 + told 40 + matched 10; patience grows with them."""
    found = matched(tmp_path, "train.early_stopping.patience_epochs=3")
    longer = found.for_arm("matched-longer").train
    assert (longer.epochs, longer.early_stopping.patience_epochs) == (90, 14)  # 3 · 90 / 20 = 13.5
    assert found.teacher("matched-longer") == "plain" and found.for_arm("matched-longer").model == found.model
    assert "distilled-longer" not in derive(config(tmp_path)).config.recipes  # it costs what plain costs


def test_a_member_that_is_trained_twice_is_counted_once(tmp_path: Path) -> None:
    twice = "recipes.matched.train.ensemble.members=[{arm: plain}, {arm: plain}, {arm: plain, seed: 9}]"
    found = matched(tmp_path, twice)
    assert found.for_arm("matched-longer").train.epochs == 20 + 20 + 10
    assert found.arms == ("plain", "matched", "matched-longer")  # nothing is read, so nothing is exchanged


def test_what_plain_reads_too_is_no_teachers(tmp_path: Path) -> None:
    found = derive(config(tmp_path, "train.item_init={kind: text}")).config
    assert found.arms == ("plain", "distilled", "shuffled", "random", "collaborative")
    assert all(found.for_arm(arm).train.item_init == found.train.item_init for arm in found.arms)
    recipe = "recipes={deep: {teacher: distilled, model: {num_blocks: 3}}}"
    deep = derive(config(tmp_path, recipe, "arms=[deep]")).config
    assert deep.arms == ("plain", "deep", "deep-shuffled", "deep-random", "deep-collaborative", "deep-ids")
    assert [(deep.teacher(arm), deep.for_arm(arm).model.num_blocks) for arm in deep.arms[2:]] == [
        ("shuffled", 3), ("random", 3), ("collaborative", 3), ("plain", 3)]


def test_an_arm_that_reads_gets_its_own_settings_without_texts_unless_that_is_plain(tmp_path: Path) -> None:
    recipes = """recipes={
      start: {train: {item_init: {kind: text}}},
      warm: {model: {dropout: 0.1}, train: {item_init: {kind: text}, optimizer: {lr: 3e-3}}},
      own: {train: {distill_epochs: 0, item_init: {kind: text}, ensemble: {members: [{arm: plain}]}}}}"""
    found = derive(config(tmp_path, recipes, "arms=[plain, start, warm, own]")).config
    assert [arm for arm in found.arms if arm.endswith("-ids")] == ["warm-ids", "own-ids"]
    warm, own = (found.for_arm(f"{arm}-ids") for arm in ("warm", "own"))
    assert (warm.train.item_init, warm.train.optimizer.lr, warm.model.dropout) == (None, 3e-3, 0.1)
    assert own.train.item_init is None and members(found, "own-ids") == [("plain", 0, 1.0)]


def test_a_member_of_another_model_is_replaced_by_that_model(tmp_path: Path) -> None:
    recipes = """recipes={
      gru: {model: {kind: gru4rec, hidden_dim: 128}, train: {item_init: {kind: text}}},
      both: {train: {distill_epochs: 0, ensemble: {members: [{arm: plain}, {arm: gru}, {arm: plain, seed: 7}]}}}}"""
    found = derive(config(tmp_path, recipes, "arms=[plain, both]", "prove.controls=[ids]")).config
    assert members(found, "both-ids") == [("plain", 0, 1.0), ("gru-ids", 0, 1.0), ("plain", 7, 1.0)]
    assert found.for_arm("gru-ids").model.hidden_dim == 128


def test_seeds_that_share_a_member_prove_nothing(tmp_path: Path) -> None:
    """Two seeds of an arm with one training behind both; the report of a run says so, a proof is refused."""
    recipes = "recipes={two: {train: {distill_epochs: 0, ensemble: {members: [{arm: plain}, {arm: plain, seed: 1}]}}}}"
    given = config(tmp_path, recipes, "arms=[plain, two, shuffled]", "seeds=[0, 1]")
    with pytest.raises(ConfigError, match="two: its seeds 0 and 1 both learn from plain with seed 1, so"):
        derive(given)
    said = list(caveats(given))
    assert len(said) == 2 and said[0].startswith("Seeds 0 and 1 of two both learn from plain with seed 1:")
    assert said[1] == "shuffled is a control for distilled, which is none of the arms: it is listed, not tested."
    shipped = config(tmp_path, "arms=[plain, matched, matched-plain]", "seeds=[0, 1, 2, 3, 4]")
    assert not list(caveats(shipped)) and shipped.control_for("matched-plain") == "matched"
    assert config(tmp_path, "arms=[plain, matched-plain]").control_for("matched-plain") is None
    own = "recipes={big: {}, matched: {control_for: big}}"
    assert config(tmp_path, own, "arms=[plain, big, matched, matched-plain]").control_for("matched-plain") is None
    with pytest.raises(ConfigError, match="seeds that are 1001 apart or more, or the run seeds that are closer"):
        derive(config(tmp_path, "arms=[plain, matched-plain]", "seeds=[0, 1000]", "prove.seeds=2"))
    skipped = derive(config(tmp_path, """recipes={both: {train: {distill_epochs: 0, ensemble: {
      members: [{arm: plain}, {arm: plain, seed: 7}, {arm: text-start}]}}}}""", "arms=[plain, both]")).config
    assert members(skipped, "both-ids")[2] == ("plain", 15, 1.0)  # 5 and 10 are less than five seeds from 7 or 0


def test_a_model_that_one_arm_alone_starts_from_is_refused(tmp_path: Path) -> None:
    recipes = "recipes={warm: {train: {init_from: 0123456789abcdef, item_init: {kind: text}}}}"
    with pytest.raises(ConfigError, match=r"recipes\.warm\.train\.init_from: what that model has read would reach"):
        derive(config(tmp_path, recipes, "arms=[plain, warm]"))
    everywhere = config(tmp_path, "train.init_from=0123456789abcdef")
    assert derive(everywhere).config.for_arm("shuffled").train.init_from == "0123456789abcdef"
    shipped = config(tmp_path, "train.init_from=0123456789abcdef", "arms=[plain, matched]")
    assert "matched-ids" in derive(shipped).config.arms  # their recipes start anew, from members or without a table


def test_data_made_cold_do_not_go_with_a_model_that_knows_them(tmp_path: Path) -> None:
    cold = "prepare.cold_start={share: 0.4}"
    with pytest.raises(ConfigError, match=r"with train.init_from \(in plain, distilled\): the earlier model"):
        config(tmp_path, cold, "train.init_from=0123456789abcdef")
    said = list(caveats(config(tmp_path, cold, "arms=[plain, text]", """recipes={
      text: {train: {item_init: {kind: text}, place_untrained: true}}}""")))
    assert [sentence.split(" (")[0] for sentence in said] == [
        "Test targets were made cold",
        "text: items that training never asked for, where there are any, are placed at export"]


@pytest.mark.parametrize(("recipes", "words"), [
    ("{a: {control_for: a}}", "recipes.a.control_for: got 'a'; legal: an arm that is not plain, no control and not a"),
    ("{a: {control_for: plain}}", "got 'plain'"), ("{a: {control_for: shuffled}}", "got 'shuffled'"),
    ("{content: {}}", "got the name 'content'"), (f"{{{'a' * 101}: {{}}}}", "legal: at most 100 letters"),
    ("{a: {train: {ensemble: {members: [{arm: nope}]}, distill_epochs: 0}}}",
     "recipes.a.train.ensemble.members: got 'nope'")])
def test_recipes_that_cannot_be_meant_are_refused(tmp_path: Path, recipes: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        config(tmp_path, f"recipes={recipes}")


def test_a_member_that_reads_profiles_gets_others_or_none(tmp_path: Path) -> None:
    recipes = """recipes={
      reads: {train: {profile_input: {dropout: 0.1}}},
      taught: {train: {distill_epochs: 0, ensemble: {members: [{arm: plain}, {arm: reads}]}}}}"""
    found = derive(config(tmp_path, recipes, "arms=[plain, taught]")).config
    assert members(found, "taught-collaborative") == [("plain", 0, 1.0), ("reads-collaborative", 0, 1.0)]
    given = found.for_arm("reads-collaborative").train.profile_input
    assert given is not None and (given.control, given.dropout) == ("collaborative", 0.1)
    assert members(found, "taught-ids") == [("plain", 0, 1.0), ("plain", 5, 1.0)]
    by_label = {step.label: step for step in steps(found)}
    assert "reduce" in by_label["train/reads/seed-0"].inputs
    assert by_label["train/taught/seed-0"].inputs == ("prepare", "train/plain/seed-0", "train/reads/seed-0")


def test_another_architecture_gets_an_ensemble_of_its_own_kind_without_texts(tmp_path: Path) -> None:
    other = {"kind": "bert4rec", "hidden_dim": 32, "num_heads": 1}
    recipes: dict[str, Any] = {
        "bert": {"model": other},
        "bert-text": {"model": other, "train": {"item_init": {"kind": "text"}}},
        "both": {"model": other, "train": {"distill_epochs": 0, "ensemble": {
            "members": [{"arm": "bert"}, {"arm": "bert-text"}], "start": 1}}}}
    found = derive(RunConfig.model_validate(config(tmp_path).model_dump() | {
        "recipes": recipes, "arms": ("plain", "both")})).config
    assert members(found, "both-ids") == [("bert", 0, 1.0), ("bert-text-ids", 5, 1.0)]  # without texts it is bert
    assert found.for_arm("bert-text-ids").train.item_init is None
    wide = matched(tmp_path, "recipes.matched.model={hidden_dim: 32}", "recipes.text.model={hidden_dim: 32}")
    assert members(wide, "matched-ids")[1][0] == "text-ids"  # plain's weights do not fit the student's


def test_no_training_is_counted_twice_among_ids_whatever_it_is_called(tmp_path: Path) -> None:
    recipes = """recipes={base: {}, text: {train: {item_init: {kind: text}}}, both: {train: {
      distill_epochs: 0, ensemble: {members: [{arm: text}, {arm: base}, {arm: base, seed: 5}]}}}}"""
    found = derive(config(tmp_path, recipes, "arms=[plain, both]")).config
    assert members(found, "both-ids") == [("plain", 10, 1.0), ("base", 0, 1.0), ("base", 5, 1.0)]
    other = "model={kind: bert4rec, hidden_dim: 32, num_heads: 1}"
    texts = """recipes={start: {MODEL, train: {item_init: {kind: text}}},
      whitened: {MODEL, train: {item_init: {kind: text, whiten: true}}},
      both: {MODEL, train: {distill_epochs: 0, ensemble: {members: [{arm: start}, {arm: whitened}]}}}}"""
    found = derive(config(tmp_path, texts.replace("MODEL", other.replace("=", ": ")), "arms=[plain, both]")).config
    assert members(found, "both-ids") == [("start-ids", 0, 1.0), ("whitened-ids", 5, 1.0)]


def test_a_member_that_is_an_ensemble_loses_its_members_texts_too(tmp_path: Path) -> None:
    recipes = """recipes={text: {MODEL, train: {item_init: {kind: text}}},
      inner: {MODEL, train: {distill_epochs: 0, ensemble: {members: [{arm: text}]}}},
      outer: {MODEL, train: {distill_epochs: 0, ensemble: {members: [{arm: inner}]}}}}""".replace(
          "MODEL", "model: {kind: bert4rec, hidden_dim: 32, num_heads: 1}")
    found = derive(config(tmp_path, recipes, "arms=[plain, outer]")).config
    assert members(found, "outer-ids") == [("inner-ids", 0, 1.0)]
    assert members(found, "inner-ids") == [("text-ids", 0, 1.0)]


def test_a_teacher_may_be_a_member_of_another(tmp_path: Path) -> None:
    """Its controls are members of the other's, and stay its controls."""
    for arms in ("[plain, text-start, matched]", "[plain, matched, text-start]"):
        found = derive(config(tmp_path, f"arms={arms}"))
        assert found.config.control_for("text-start-shuffled") == "text-start"
        assert ("text-start-shuffled", 0, 1.0) in members(found.config, "matched-shuffled")
        assert {("text-start", "text-start-shuffled"), ("matched", "matched-shuffled")} <= set(found.family)
    own = """recipes={text-start-shuffled: {control_for: text-start, train: {
      item_init: {control: shuffled, kind: text}}}}"""
    assert "matched-shuffled" in derive(config(tmp_path, own, "arms=[plain, matched]")).config.arms
    with pytest.raises(ConfigError, match="text-start-shuffled: the proof needs this name for a member of a control"):
        derive(config(tmp_path, own.replace("train: {", "train: {epochs: 7, "), "arms=[plain, matched]"))


def test_untrained_items_are_not_placed_where_no_text_is_left(tmp_path: Path) -> None:
    recipes = """recipes={both: {train: {distill_epochs: 0, place_untrained: true, item_init: {kind: text},
      ensemble: {members: [{arm: text-start}, {arm: plain}]}}}}"""
    train = derive(config(tmp_path, recipes, "arms=[plain, both]")).config.for_arm("both-ids").train
    assert (train.item_init, train.place_untrained) == (None, False)
    placed = derive(config(tmp_path, RECIPES, "arms=[plain, matched]", "recipes.matched.train.place_untrained=true"))
    places = {arm: placed.config.for_arm(arm).train.place_untrained for arm in placed.config.arms}
    assert [arm for arm, places_items in places.items() if places_items] == ["matched"]
    everywhere = matched(tmp_path, "train.place_untrained=true")
    assert {everywhere.for_arm(arm).train.place_untrained for arm in everywhere.arms} == {True}  # plain's own, too


def test_the_users_own_controls_stay_and_other_recipes_names_are_not_taken(tmp_path: Path) -> None:
    own = "recipes.matched-ids={control_for: matched, train: {epochs: 7, distill_epochs: 0}}"
    found = matched(tmp_path, own, "prove.controls=[ids]")
    assert found.arms == ("plain", "matched", "matched-ids") and found.for_arm("matched-ids").train.epochs == 7
    with pytest.raises(ConfigError, match=re.escape("recipes.matched-ids: the proof needs this name for a control")):
        matched(tmp_path, "recipes.matched-ids={}")
    for arms in ("[plain]", "[plain, shuffled]"):
        with pytest.raises(ConfigError, match="a proof needs an arm with a teacher"):
            derive(config(tmp_path, f"arms={arms}"))
    with pytest.raises(ConfigError, match=r"prove.controls.*'id'.*'shuffled'"):
        config(tmp_path, "prove.controls=[id]")


def test_the_proof_is_a_run_that_can_be_written_down_and_read_again(tmp_path: Path) -> None:
    found = matched(tmp_path)
    assert RunConfig.model_validate(found.model_dump(mode="json")) == found
    file = tmp_path / "proof.yaml"
    file.write_text(dump(found))
    assert load(RunConfig, file) == found
    labels = [step.label for step in plan(found, Storage.from_config(found.storage))]
    assert labels.index("train/matched-collaborative/seed-4") < labels.index("evaluate/plain/seed-0")


def test_comparisons_are_fixed_before_and_cannot_follow_the_figures(tmp_path: Path, storage: Storage) -> None:
    proof = derive(config(tmp_path))
    require_as_fixed(proof.config, storage)
    fix(proof.config, storage)
    fix(proof.config, storage)
    written = storage.read_json("runs/x-proof/proof.json")
    assert written["comparisons"] == ["distilled − plain", "distilled − shuffled", "distilled − random",
                                      "distilled − collaborative"]
    fewer = derive(config(tmp_path, "prove.controls=[random]"))
    with pytest.raises(ConfigError, match="begun with other settings.*name=…"):
        fix(fewer.config, storage)
    with pytest.raises(ConfigError, match="settings.train.alpha: 0.4 → 0.9"):
        fix(derive(config(tmp_path, "train.alpha=0.9")).config, storage)
    with pytest.raises(ConfigError, match="→ .'distilled − plain'.;.*name=…"):
        require_as_fixed(proof.config.model_copy(update={"arms": ("plain", "distilled")}), storage)
    fix(derive(config(tmp_path, "train.execution.num_workers=0", "storage.uri=/elsewhere", "cluster.num_cpus=2",
                      "report.sample_users=3", "recommend.k=5")).config, storage)


def test_a_dry_run_says_arms_seeds_comparisons_and_trainings(tmp_path: Path) -> None:
    proof = derive(config(tmp_path, RECIPES, "arms=[plain, matched]", "prove.seeds=2"))
    said = "\n".join(dry_run_lines(proof))
    assert re.search(r"^matched-ids +matched +ensemble +10 +plain, plain\+2, plain\+4$", said, re.MULTILINE)
    assert "seeds: 0, 1; every arm has each" in said
    assert "6 comparisons are tested, fixed now: matched − plain, matched − matched-shuffled, " in said
    # A seed has plain, text and told with their three exchanges each, five ensembles, longer; plain also has four seeds
    # more, two for the ids of each.
    each = 2 * (1 + 4 + 4 + 5 + 1) + 4
    epochs = 2 * (20 + 4 * 20 + 4 * 40 + 5 * 10 + 90) + 4 * 20
    assert f"{each} trainings, 0 of them there; {epochs} epochs to come at most" in said
    assert not (tmp_path / "runs").exists()


def test_a_proof_is_planned_once_and_fixed_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                    ) -> None:
    def counted(*given: Any) -> Any:
        plans.append(given)
        return keys(*given)

    def stop(*given: Any) -> None:
        raise InterruptedError

    plans: list[Any] = []
    monkeypatch.setattr(pipeline.plan, "keys", counted)
    monkeypatch.setattr(pipeline.run, "_build", stop)
    with pytest.raises(InterruptedError):
        prove(derive(config(tmp_path)))
    assert len(plans) == 1 and (tmp_path / "runs/x-proof/proof.json").is_file()


def test_one_training_of_two_arms_counts_once(tmp_path: Path) -> None:
    same = "recipes={twin: {}, other: {control_for: twin}}"
    found = Proof(config(tmp_path, same, "arms=[plain, twin, other]"))
    assert trainings(plan(found.config, Storage.from_config(found.config.storage))).startswith("1 trainings")
    assert compared(found.config.arms, {"plain": None, "twin": None, "other": "twin"}) == found.family
