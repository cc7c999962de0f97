"""What a searched setting changes: it must change what the searched arm learns, and nothing that it learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from configs.errors import ConfigError
from configs.loader import validate
from pipeline.config import RunConfig
from pipeline.store.digests import DigestCache
from pipeline.train.definition import TrainStep
from pipeline.trained import SAME_CASES
from tuning.config import Choice
from tuning.space import Space
from tuning.trial import assign, searched_step

_MEASURES: Final = (*SAME_CASES, "validation_metric")
"""Settings of training by which its validation measures another thing."""


def runs_at_ends(values: dict[str, Any], space: Space, setting: str, where: str = "") -> list[RunConfig]:
    """The run with each of a setting's choices, or its bounds, beside values with which it means something.

    Raises:
        ConfigError: one is illegal; ``where`` is told.
    """
    dimension = space[setting]
    beside = {other: allowed[0] for other, allowed in dimension.when.items()}
    return [validate(RunConfig, assign(values, beside | {setting: value}), where)
            for value in (dimension.values if isinstance(dimension, Choice) else (dimension.low, dimension.high))]


def require_effect(setting: str, base: RunConfig, searched: Sequence[RunConfig]) -> None:
    """
    Args:
        setting: of the space.
        base: the run that the search starts from.
        searched: the run with each of the setting's values.

    Raises:
        ConfigError: all values give the same training, or some want other inputs, other teachers or another measure.
    """
    own = searched_step(base)
    arm = own.label.split("/")[1]
    other = f"search another arm (arms=[…] in overrides), or recipes.{arm}.{setting}"
    for config in searched:
        step = searched_step(config)
        for name in _MEASURES:
            if getattr(step.config.train, name) != getattr(own.config.train, name):
                raise ConfigError(f"space.{setting}: train.{name} changes what validation measures, so the figures of "
                                  "trials would not be of one thing; set it in the search's overrides")
        if set(step.inputs) != set(own.inputs):
            lacking = ", ".join(sorted(set(step.inputs) ^ set(own.inputs)))
            raise ConfigError(f"space.{setting}: some of its values want other inputs ({lacking}) than the search "
                              "builds, once, before its trials; search each in a search of its own")
        if _members(config, arm) != _members(base, arm):
            raise ConfigError(f"space.{setting}: it also changes the recommenders that {arm} learns from, which are "
                              f"trained once, before the trials; {other}")
    if len(searched) > 1 and len({_key(searched_step(config)) for config in searched}) == 1:
        raise ConfigError(f"space.{setting}: none of its values changes what {arm} learns (its recipe sets it, or it "
                          f"is not of this arm's training); {other}")


def _members(config: RunConfig, arm: str) -> list[str]:
    """What the arm's members are trained with, and theirs."""
    alone = config.model_copy(update={"arms": (arm,)})
    return [_key(TrainStep.of(config, name, config.seeds[0])) for name in alone.trained_arms() if name != arm]


def _key(step: TrainStep) -> str:
    """What a training depends on beside its inputs, which are named alone."""
    return step.key({label: label for label in step.inputs}, DigestCache()).fingerprint
