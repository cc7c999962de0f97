"""The root of all settings of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, cast, get_args

from pydantic import Field, field_validator, model_validator

from cluster.config import ClusterConfig, StorageConfig
from configs.base import Config, each_once
from configs.errors import ConfigError, illegal
from configs.files import merge
from configs.loader import validate
from models.config import ModelConfig, SASRecConfig
from pipeline.audit.config import AuditConfig
from pipeline.encode.config import EncodeConfig
from pipeline.evaluate.config import Baseline, EvaluateConfig
from pipeline.prepare.config import PrepareConfig
from pipeline.profile.config import ProfileConfig
from pipeline.prove.config import ProveConfig
from pipeline.recipes import BUILT_IN, CONTROLS, SHIPPED, Recipe, with_shipped
from pipeline.recommend.config import RecommendConfig
from pipeline.reduce.config import PCAReducer, ReduceConfig, ReducerConfig, UMAPReducer
from pipeline.report.config import ReportConfig
from pipeline.train.config import Arm, TrainConfig
from pipeline.train.teaching_config import BoundedChangeTable, Member, TextItemInit

BASELINES: tuple[str, ...] = get_args(Baseline)
Seed = Annotated[int, Field(ge=0, lt=2**31)]
"""Libraries take no others."""
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
_ARMS = ("plain", "matched")
"""The shipped recipe gained where the items' texts say something, and keyword profiles did not (README, Results)."""


class RunConfig(Config):
    """One run: raw files → distilled recommender, its metrics against the undistilled one, and a report."""

    name: str
    """Folder of the run below `runs/`."""
    seeds: Annotated[tuple[Seed, ...], each_once("value")] = Field(default=(0,), min_length=1)
    """Training seeds; every arm is trained with each."""
    arms: Annotated[tuple[str, ...], each_once("value")] = Field(default=_ARMS, min_length=1)
    """What is trained and compared: `plain`, `distilled`, the controls `shuffled`, `random` and `collaborative`, the
    shipped recipes `text-start`, `text-only`, `matched` and `matched-plain`, and names of `recipes`."""
    recipes: dict[str, Recipe] = Field(default_factory=dict)
    """Arms with settings of their own, by name; those that are no arm are trained where an ensemble names them.
    Settings of a shipped recipe's name are laid over it; an ensemble with members of its own replaces that of the
    recipe."""
    storage: StorageConfig = StorageConfig()
    cluster: ClusterConfig = ClusterConfig()
    prepare: PrepareConfig = PrepareConfig()
    profile: ProfileConfig = ProfileConfig()
    encode: EncodeConfig = EncodeConfig()
    reduce: ReduceConfig = ReduceConfig()
    model: ModelConfig = SASRecConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    audit: AuditConfig = AuditConfig()
    report: ReportConfig = ReportConfig()
    prove: ProveConfig = ProveConfig()
    recommend: RecommendConfig = RecommendConfig()

    @model_validator(mode="before")
    @classmethod
    def _shipped_recipes(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        arms, own = values.get("arms", _ARMS), values.get("recipes") or {}
        if not isinstance(arms, (list, tuple)) or not isinstance(own, Mapping):
            return values
        recipes = with_shipped([arm for arm in arms if isinstance(arm, str)], own)
        return {**values, "recipes": recipes} if recipes else values

    @field_validator("name")
    @classmethod
    def _safe_name(cls, value: str) -> str:
        if not NAME.match(value):
            raise ValueError("a run name starts with a letter or digit and holds letters, digits, '.', '_', '-' "
                             "(at most 100): it names a folder")
        return value

    def teacher(self, arm: str) -> Arm:
        """What the profiles do in an arm."""
        return self.recipes[arm].teacher if arm in self.recipes else cast(Arm, arm)

    def control_for(self, arm: str) -> str | None:
        """The arm that this one is a control for."""
        return self.recipes[arm].control_for if arm in self.recipes else CONTROLS.get(arm)

    def for_arm(self, arm: str) -> RunConfig:
        """The run's settings as they are in one arm.

        Raises:
            ConfigError: the recipe's settings are illegal; the setting is named.
        """
        if arm not in self.recipes:
            return self
        recipe, own = self.recipes[arm], {"model": self.model, "train": self.train}
        merged = merge({name: value.model_dump(mode="json") for name, value in own.items()},
                       {"model": recipe.model, "train": recipe.train})
        settings = validate(_ArmSettings, merged, f" in recipes.{arm}")
        return self.model_copy(update={"model": settings.model, "train": settings.train})

    def members(self, arm: str) -> tuple[Member, ...]:
        """The recommenders that an arm learns from."""
        ensemble = self.for_arm(arm).train.ensemble
        return ensemble.members if ensemble is not None else ()

    def trained_arms(self) -> list[str]:
        """The arms and all members of their ensembles, each after its own members."""
        return self._with_members(self.arms)

    def _with_members(self, arms: Iterable[str]) -> list[str]:
        found: list[str] = []
        for arm in arms:
            self._add_with_members(arm, found, ())
        return found

    def _add_with_members(self, arm: str, found: list[str], above: tuple[str, ...]) -> None:
        if arm in above:
            raise ConfigError(f"{' → '.join((*above, arm))}: an arm cannot learn from itself; train.ensemble belongs "
                              "into the recipe that has it")
        for member in self.members(arm):
            if member.arm not in (*BUILT_IN, *self.recipes):
                where = f"recipes.{arm}.train" if arm in self.recipes else "train"
                raise ConfigError(illegal(f"{where}.ensemble.members", member.arm, self._known_arms()))
            self._add_with_members(member.arm, found, (*above, arm))
        self._check_members(arm)
        if arm not in found:
            found.append(arm)

    def _check_members(self, arm: str) -> None:
        """That models of such shapes can teach one; training would refuse them when all are trained."""
        own = self.for_arm(arm)
        start = own.train.ensemble.start if own.train.ensemble is not None else None
        for place, member in enumerate(self.members(arm)):
            model, where = self.for_arm(member.arm).model, f"arm {arm}, member {member.arm}: "
            if (model.kind == "bert4rec") != (own.model.kind == "bert4rec"):
                raise ConfigError(where + illegal("model.kind", model.kind,
                                                  f"one with the objective of the student, which is {own.model.kind}"))
            if model.max_length < own.model.max_length:
                raise ConfigError(where + illegal("model.max_length", model.max_length,
                                                  f"{own.model.max_length} or more, what the student reads"))
            unequal = model.differences(own.model) if place == start else []
            if unequal:
                raise ConfigError(f"{where}the student starts from it (train.ensemble.start), but their models differ "
                                  f"({', '.join(unequal)}); make them equal, start from another member, or set start "
                                  "to null")

    def _known_arms(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*BUILT_IN, *self.recipes, *SHIPPED)))

    def item_reduce(self) -> ReduceConfig:
        """How item texts are brought to the student's width, where `train.item_init` asks for them."""
        init, own = self.train.item_init or TextItemInit(), self.reduce.method
        width = self.model.hidden_dim
        method: ReducerConfig = PCAReducer(components=width)
        if init.method == "umap":
            given = own if isinstance(own, UMAPReducer) else UMAPReducer()
            method = given.model_copy(update={"components": width})
        return self.reduce.model_copy(update={"method": method, "whiten": init.whiten, "fitted_by": None})

    @field_validator("recipes")
    @classmethod
    def _new_names(cls, value: dict[str, Recipe]) -> dict[str, Recipe]:
        for name in value:
            if name in (*BUILT_IN, *BASELINES) or not NAME.match(name):
                raise ValueError(f"got the name {name!r}; legal: at most 100 letters, digits, '.', '_' and '-', a "
                                 f"letter or digit first, and none of {', '.join((*BUILT_IN, *BASELINES))}")
        return value

    @model_validator(mode="after")
    def _arms_exist(self) -> RunConfig:
        known = self._known_arms()
        for arm in self.arms:
            if arm not in known:
                raise ValueError(f"arms: got {arm!r}; legal: {', '.join(known)}")
        for name, recipe in self.recipes.items():
            teachers = [arm for arm in known if arm not in ("plain", name) and self.control_for(arm) is None]
            if recipe.control_for not in (None, *teachers):
                raise ValueError(f"recipes.{name}.control_for: got {recipe.control_for!r}; legal: an arm that is not "
                                 f"plain, no control and not {name} itself: {', '.join(teachers)}")
        try:
            self._with_members((*self.arms, *self.recipes))
        except ConfigError as exc:
            raise ValueError(str(exc)) from exc
        return self

    @model_validator(mode="after")
    def _cold_items_are_unknown(self) -> RunConfig:
        warm = [] if self.prepare.cold_start is None else [
            arm for arm in dict.fromkeys((*self.arms, *self.recipes))
            if self.for_arm(arm).train.init_from is not None]
        if warm:
            raise ValueError(f"prepare.cold_start with train.init_from (in {', '.join(warm)}): the earlier model knows "
                             "what training must not; leave one of them out")
        return self

    @model_validator(mode="after")
    def _profiles_can_teach(self) -> RunConfig:
        for arm in self.trained_arms():
            if self.teacher(arm) == "plain":
                continue
            train, model = (own := self.for_arm(arm)).train, own.model
            floor = train.distillation.projection.variance_floor
            if floor and not train.distillation.trains_map:
                raise ValueError(f"arm {arm}: train.distillation.projection.variance_floor={floor} keeps T(profile) "
                                 "from collapsing, but nothing of T is trained here; legal: 0, or projection.kind="
                                 "trained or profile_aggregation=attention, with target.kind=profile")
            if train.distillation.layer >= model.num_blocks:
                raise ValueError(f"arm {arm}: train.distillation.layer={train.distillation.layer} needs a block of "
                                 f"that index; model.num_blocks={model.num_blocks}, so legal: 0…{model.num_blocks - 1}")
            if not train.distill_epochs:
                raise ValueError(f"arm {arm} learns from profiles (teacher {self.teacher(arm)}) in its first "
                                 "train.distill_epochs epochs, and with 0 in none; legal: 1 or more, or an arm whose "
                                 "teacher is plain")
        return self

    @model_validator(mode="after")
    def _something_is_placed(self) -> RunConfig:
        trained = [self.for_arm(arm).train for arm in self.trained_arms()]
        used = {train.place_scale for train in trained if train.place_untrained}
        for scale in sorted({train.place_scale for train in trained} - used - {1.0}):
            raise ValueError(f"train.place_scale={scale} tells how far placed items spread, and no arm that has it "
                             "places any; add train.place_untrained=true, or leave it out")
        return self

    @model_validator(mode="after")
    def _changes_are_bounded_about_something(self) -> RunConfig:
        for arm in self.trained_arms():
            train = self.for_arm(arm).train
            if isinstance(train.item_table, BoundedChangeTable) and not train.starts_somewhere:
                raise ValueError(f"arm {arm}: train.item_table.kind=bounded_change keeps every item near what it "
                                 "starts from, and that is random here; set item_init (texts), init_from or "
                                 "ensemble.start beside it")
        return self


class _ArmSettings(Config):
    """What a recipe may change."""

    model: ModelConfig
    train: TrainConfig
