"""Settings of a search. Torch- and Ray-free."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.base import Config, each_once
from pipeline.config import NAME, Seed

_LONGEST = 95
_SEARCHED = ("train", "model", "reduce", "encode", "profile")
_OF_ARMS = ("train", "model", "teacher")


class _Dimension(Config):
    when: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Other settings of the space, named before this one, and their values with which this one means something:
    `{train.distillation.pooling.kind: [exponential]}` for γ. Empty: always."""


class Choice(_Dimension):
    """One of a list; a value may be a whole group of settings (``{kind: exponential, gamma: 0.1}``)."""

    kind: Literal["choice"] = "choice"
    values: tuple[Any, ...] = Field(min_length=1)


class _Range(_Dimension):
    low: float
    high: float
    log: bool = False
    """Drawn on a logarithmic scale."""

    @model_validator(mode="after")
    def _ordered(self) -> _Range:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low={self.low} must be below high={self.high}, and above 0 on a log scale")
        return self


class Uniform(_Range):
    """A number between two bounds."""

    kind: Literal["uniform"] = "uniform"


class Integer(_Range):
    """A whole number between two bounds, both included."""

    kind: Literal["integer"] = "integer"
    low: int
    high: int


Dimension = Annotated[Choice | Uniform | Integer, Field(discriminator="kind")]


class OptunaSearch(Config):
    """Optuna's TPE sampler."""

    kind: Literal["optuna"] = "optuna"
    trials: int = Field(default=8, ge=1)


class GridSearch(Config):
    """Every combination of the choices."""

    kind: Literal["grid"] = "grid"


class ASHAConfig(Config):
    """Asynchronous successive halving on the validated epochs."""

    grace_epochs: int = Field(default=5, ge=1)
    """No trial is stopped before so many epochs after the phases of profiles and of an ensemble are over."""
    reduction_factor: int = Field(default=3, ge=2)


class TuneExecution(Config):
    """Never part of what a trial computes."""

    concurrent_trials: int = Field(default=1, ge=1)
    workers_per_trial: int = Field(default=0, ge=0)
    """0: a trial trains in its own process. Else in so many DDP workers of Ray Train, each with what the run's
    `train.execution` gives a worker; for trainings that one device is too slow or too small for."""
    cpus_per_trial: float | None = Field(default=None, gt=0)
    """Of a trial that trains in its own process. Default: 1."""
    gpus_per_trial: float | None = Field(default=None, gt=0)
    """The same. A share of a GPU is legal (0.5: two trials on one). Default: 1 where the run's
    `train.execution.use_gpu` is true; not to be set where it is false."""

    @model_validator(mode="after")
    def _workers_have_their_own(self) -> TuneExecution:
        for name in ("cpus_per_trial", "gpus_per_trial"):
            if self.workers_per_trial and getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name):g} is of a trial that trains in its own process; with "
                                 f"workers_per_trial={self.workers_per_trial} set the run's train.execution"
                                 ".cpus_per_worker and use_gpu (overrides), of which each worker has its own")
        return self


class TuneConfig(Config):
    """A search over settings on the validation metric. What stands before `train` is built once, before the trials, for
    every combination of the settings that change it."""

    name: str
    """Folder of the search below `tune/`."""
    run: str
    """The run configuration that the search starts from; a path relative to this file, or a shipped one."""
    overrides: tuple[str, ...] = ()
    """``key.path=value`` assignments on the run configuration."""
    space: dict[str, Dimension] = Field(min_length=1)
    """Dotted run settings of what is learnt and of what it is learnt from, or of a recipe (`recipes.<arm>.train.…`) →
    where their values come from. One that changes what stands before `train` needs a choice."""
    search: Annotated[OptunaSearch | GridSearch, Field(discriminator="kind")] = OptunaSearch()
    asha: ASHAConfig | None = ASHAConfig()
    """None: every trial runs to its end."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seeds the sampler; trials train with the run's first seed."""
    final_seeds: Annotated[tuple[Seed, ...], each_once("seed")] = ()
    """After the search the best configuration is run with these seeds, all its arms, and scored on the test part once;
    empty: that is left to `mentorec run --config best.yaml`."""
    execution: TuneExecution = TuneExecution()

    def _require_own_place(self, path: str, before: list[str]) -> None:
        """What a group or another kind of it would take the place of stands after it. Raises ValueError."""
        above = [other for other in before if path.startswith(f"{other}.") and other not in self.space[path].when]
        if above:
            raise ValueError(f"space.{path}: {above[0]} is searched too, and lies above it; say with which of its "
                             f"values this one means something (when: {{{above[0]}: […]}})")
        group = path.removesuffix(".kind")
        lost = [other for other in before if other.startswith(f"{group}.")]
        if lost:
            raise ValueError(f"space.{path}: another value replaces all of {group}, {lost[0]} too, which stands before "
                             f"it; name {path} first")

    @field_validator("name")
    @classmethod
    def _safe_name(cls, value: str) -> str:
        if not NAME.match(value) or len(value) > _LONGEST:
            raise ValueError(f"a search name holds letters, digits, '.', '_', '-' (at most {_LONGEST}): it names a "
                             "folder, and with '-best' the run of its winner")
        return value

    @model_validator(mode="after")
    def _space_is_searchable(self) -> TuneConfig:
        for path, dimension in self.space.items():
            group, *inside = path.split(".")
            if inside[1:2] not in [[name] for name in _OF_ARMS] if group == "recipes" else group not in _SEARCHED:
                raise ValueError(f"space.{path}: a search varies settings of {', '.join(_SEARCHED)}, or of a recipe's "
                                 f"{', '.join(_OF_ARMS)} (recipes.<arm>.…); all else measures other things, or nothing")
            if "execution" in inside:
                raise ValueError(f"space.{path}: by what a trial is trained is not searched; set it in the search's "
                                 "overrides, or execution.workers_per_trial")
            before = list(self.space)[:list(self.space).index(path)]
            self._require_own_place(path, before)
            for other in dimension.when:
                if other not in before:
                    raise ValueError(f"space.{path}.when: {other} is not searched; legal: what stands before it "
                                     f"({', '.join(before) or 'nothing'})")
            if isinstance(self.search, GridSearch) and not isinstance(dimension, Choice):
                raise ValueError(f"space.{path}: a grid needs kind=choice with values")
        return self
