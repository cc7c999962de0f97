"""The arms that a run's teachers are tested against, derived from the run: nothing but recipes, so a proof is a run.

A control is its teacher's arm with what the teacher knows exchanged, and all else as it is: the same model, epochs,
schedule and selection. What the plain arm reads too is no teacher's and stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, Literal

from configs.errors import ConfigError
from configs.files import merge
from pipeline.config import RunConfig
from pipeline.members import trainings
from pipeline.prove.config import Control
from pipeline.recipes import Recipe
from pipeline.train.teaching_config import (
    BaselineScores,
    BoundedChangeTable,
    ContentScores,
    ItemKNNScores,
    Member,
)

Exchange = Literal["shuffled", "random", "collaborative"]


class Controls:
    """The recipes of a run and of its proof; they grow with every control that is asked for."""

    def __init__(self, config: RunConfig, seeds: Sequence[int]) -> None:
        """``seeds``: of the proof."""
        self._config = config
        self._span = max(seeds) - min(seeds) + 1
        self.recipes = dict(config.recipes)

    def of(self, arm: str, kind: Control) -> str | None:
        """The name of an arm's control; None where it would say nothing: no text is read, no epochs are added.

        Raises:
            ConfigError: the run has a recipe of that name with another purpose.
        """
        if kind == "longer":
            return self._longer(arm)
        if kind == "ids":
            return self._ids(arm, arm) if self.reads(arm) and self._is_more_than_texts(arm) else None
        if kind != "shuffled" and self._places(arm) and not self._is_told(arm) and not any(
                self.reads(member.arm) for member in self._config.members(arm)):
            return None  # it would be the same training: without texts nothing is placed
        return self._exchanged(arm, kind, arm) if self.reads(arm) else None

    def reads(self, arm: str) -> bool:
        """Whether texts or profiles reach an arm, itself or through a member, beyond what the plain arm reads."""
        return self._reads_itself(arm) or any(self.reads(member.arm) for member in self._config.members(arm))

    def _is_more_than_texts(self, arm: str) -> bool:
        """Whether the arm without its texts is another training than the plain one."""
        if arm == "distilled":
            return False
        bare = self.recipes[arm].model_copy(update=self._without_texts(arm))
        return bool(self._config.members(arm)) or self._training(arm, bare) != self._training("plain")

    def _reads_itself(self, arm: str) -> bool:
        return self._places(arm) or self._is_told(arm)

    def _is_told(self, arm: str) -> bool:
        """The same by more than the places of untrained items."""
        return self._config.teacher(arm) == "distilled" or bool(self._text_settings(arm) or self._telling(arm))

    def _places(self, arm: str) -> bool:
        """Whether the arm's own texts place items that it has not trained, and the plain arm's do not."""
        own, plain = self._config.for_arm(arm).train, self._config.for_arm("plain").train
        return own.place_untrained and not plain.place_untrained and own.item_init is None and (
            getattr(own.item_table, "kind", None) != "mapped_text")

    def _baselines(self, arm: str) -> tuple[BaselineScores, ...]:
        ensemble = self._config.for_arm(arm).train.ensemble
        return ensemble.baselines if ensemble is not None else ()

    def _telling(self, arm: str) -> list[BaselineScores]:
        """Baselines of an arm's ensemble that read the items' own texts, and the plain arm's do not."""
        return [each for each in self._baselines(arm) if isinstance(each, ContentScores) and each.control == "none"
                and each not in self._baselines("plain")]

    def _text_settings(self, arm: str) -> list[str]:
        """Settings of an arm's training that bring it texts or profiles, and the plain arm not."""
        own, plain = self._config.for_arm(arm).train, self._config.for_arm("plain").train
        pairs = {name: (getattr(own, name), getattr(plain, name)) for name in (
            "item_init", "item_table", "profile_input")}
        return [name for name, (mine, everyones) in pairs.items()
                if getattr(mine, "control", None) == "none" and mine != everyones]

    def _exchanged(self, arm: str, kind: Exchange, control_for: str | None) -> str:
        """The arm, and all members of it that read, with what they read exchanged."""
        if arm == "distilled":
            return kind
        recipe = self.recipes[arm]
        changes: dict[str, Any] = {name: {"control": kind} for name in self._text_settings(arm)}
        if self._places(arm):
            changes["place_untrained"] = False  # other texts would be no place at all
        members = [member.model_copy(update={"arm": self._exchanged(member.arm, kind, None)})
                   if self.reads(member.arm) else member for member in self._config.members(arm)]
        if members:
            changes["ensemble"] = {"members": _plainly(members)}
        if telling := self._telling(arm):
            changes["ensemble"]["baselines"] = _plainly(
                each.model_copy(update={"control": kind}) if each in telling else each for each in self._baselines(arm))
        return self._add(f"{arm}-{kind}", recipe.model_copy(update={
            "teacher": kind if recipe.teacher == "distilled" else recipe.teacher,
            "train": merge(recipe.train, changes), "control_for": control_for}))

    def _ids(self, arm: str, control_for: str | None) -> str:
        """The arm without texts and profiles, its ensemble as large."""
        if arm == "distilled":
            return "plain"
        recipe, bare = self.recipes[arm], self._without_texts(arm)
        if members := self._config.members(arm):
            bare["train"] = merge(bare["train"], {"ensemble": self._ensemble_of_ids(arm, members)})
        return self._add(f"{arm}-ids", recipe.model_copy(update={**bare, "control_for": control_for}))

    def _without_texts(self, arm: str) -> dict[str, Any]:
        """What changes in an arm's recipe when nothing is read but by its ensemble."""
        changes: dict[str, Any] = dict.fromkeys(self._text_settings(arm))
        if self._config.for_arm(arm).train.place_untrained and not self._config.for_arm("plain").train.place_untrained:
            changes["place_untrained"] = False  # no text says where
        own = self._config.for_arm(arm).train
        if isinstance(own.item_table, BoundedChangeTable) and not own.model_copy(update=changes).starts_somewhere:
            changes["item_table"] = None  # nothing is left for items to stay near to
        return {"teacher": "plain", "train": merge(self.recipes[arm].train, changes)}

    def _ensemble_of_ids(self, arm: str, members: Sequence[Member]) -> dict[str, Any]:
        """Further plain seeds in the place of the members that read, or, where the student could not learn from the
        plain arm or a member is of another model, those members without their texts, each with a seed that makes it a
        training of its own. No two seeds of the proof share a further member: they would agree more than chance does.
        In the place of a baseline that reads texts item-kNN stands, and where that is there already nothing does."""
        own, plain = self._config.for_arm(arm), self._config.for_arm("plain")
        usable = plain.model.max_length >= own.model.max_length and (
            (plain.model.kind == "bert4rec") == (own.model.kind == "bert4rec"))
        taken = [(self._training(member.arm), member.seed) for member in members if not self.reads(member.arm)]
        replaced: list[Member] = []
        for member in members:
            if self.reads(member.arm):
                alike = not plain.model.differences(self._config.for_arm(member.arm).model)
                name = "plain" if usable and alike else self._ids(member.arm, None)
                training = self._training(name)
                seed = next(seed for seed in count(0, self._span) if all(
                    abs(seed - other) >= self._span for found, other in taken if found == training))
                taken.append((training, seed))
                member = member.model_copy(update={"arm": name, "seed": seed})
            replaced.append(member)
        ensemble: dict[str, Any] = {"members": _plainly(replaced)}
        if telling := self._telling(arm):
            ensemble["baselines"] = _plainly(self._without(telling, arm))
        return ensemble

    def _without(self, telling: Sequence[BaselineScores], arm: str) -> list[BaselineScores]:
        """An arm's baselines with item-kNN in the place of the first that reads texts, unless it is there already."""
        kept: list[BaselineScores] = [each for each in self._baselines(arm) if each not in telling]
        if not any(each.kind == "item_knn" for each in kept):
            kept.insert(self._baselines(arm).index(telling[0]), ItemKNNScores())
        return kept

    def _longer(self, arm: str) -> str | None:
        plain, epochs = self._config.train, sum(trainings(self._config, arm).values())
        if epochs <= plain.epochs:
            return None
        patience = math.ceil(plain.early_stopping.patience_epochs * epochs / plain.epochs)
        return self._add(f"{arm}-longer", Recipe(
            train={"epochs": epochs, "early_stopping": {"patience_epochs": patience}}, control_for=arm))

    def _add(self, name: str, recipe: Recipe) -> str:
        """A recipe of that name and purpose which the run has already is the user's own and stays. One that trains the
        same may be both, a control of its own and a member of another's."""
        there = self.recipes.setdefault(name, recipe)
        if there.control_for == recipe.control_for:
            return name
        if None in (there.control_for, recipe.control_for) and (
                self._training(name) == self._training(name, recipe)):
            purpose = there.control_for or recipe.control_for
            self.recipes[name] = there.model_copy(update={"control_for": purpose})
            return name
        wanted = f"a control for {recipe.control_for}" if recipe.control_for else "a member of a control"
        raise ConfigError(f"recipes.{name}: the proof needs this name for {wanted}; rename the recipe, or set its "
                          f"control_for to {recipe.control_for or 'null'} where it is just that")

    def _training(self, arm: str, recipe: Recipe | None = None) -> dict[str, Any]:
        """What an arm trains, whatever it is called; ``recipe``: in the place of its own."""
        recipes = self.recipes if recipe is None else self.recipes | {arm: recipe}
        run = self._config.model_copy(update={"recipes": recipes})
        own, teacher = run.for_arm(arm), run.teacher(arm)
        return {"teacher": teacher, "model": own.model.key(), "train": own.train.arm_key(teacher)}


def _plainly(parts: Iterable[Member | BaselineScores]) -> list[dict[str, Any]]:
    """As a file has them: what is not as by default, and of which kind each is."""
    return [{name: value for name, value in part.model_dump(mode="json").items()
             if name == "kind" or value != type(part).model_fields[name].default} for part in parts]
