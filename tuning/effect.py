"""What a searched setting changes: it must change what the searched arm learns, and nothing that it is measured by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from configs.errors import ConfigError
from configs.loader import validate
from pipeline.config import RunConfig
from pipeline.plan import with_inputs
from pipeline.stage import Step
from pipeline.store.artifacts import StageKey
from pipeline.store.digests import DigestCache
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
    beside = _conditions(space, setting)
    return [validate(RunConfig, assign(values, {other: beside[other] for other in space if other in beside}
                                       | {setting: value}), where)
            for value in (dimension.values if isinstance(dimension, Choice) else (dimension.low, dimension.high))]


def _conditions(space: Space, setting: str) -> dict[str, Any]:
    """Values of others with which a setting means something, and with which those do."""
    found: dict[str, Any] = {}
    for other, allowed in space[setting].when.items():
        found |= _conditions(space, other) | {other: allowed[0]}
    return found


def require_effect(setting: str, base: RunConfig, searched: Sequence[RunConfig]) -> None:
    """
    Args:
        setting: of the space.
        base: the run that the search starts from.
        searched: the run with each of the setting's values.

    Raises:
        ConfigError: all values give the same training, or some want another measure.
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
        if (step.config.train.profile_input is None) != (own.config.train.profile_input is None):
            raise ConfigError(f"space.{setting}: {arm} is validated with the users' profiles where "
                              "train.profile_input is set, and without them where it is not, so the figures of trials "
                              "would not be of one thing; search each in a search of its own")
    trained = [searched_step(config).config.train for config in searched]
    if len({each.place_scale if each.place_untrained else 0.0 for each in trained}) > 1:
        raise ConfigError(f"space.{setting}: train.place_untrained moves items at export, after the validation that "
                          f"trials are compared by; compare both in a run's report: {arm} beside a recipe with it")
    if len(searched) > 1 and len({chain(config)[own.label] for config in searched}) == 1:
        raise ConfigError(f"space.{setting}: none of its values changes what {arm} learns (its recipe sets it, or it "
                          f"is not of this arm's training); {other}")


def chain(config: RunConfig) -> dict[str, str]:
    """The searched training and all that it is built from, in build order: label → what it depends on, as a digest.

    Reads no raw data and no model, for a search may be checked where they are not: the settings that name them stand
    for their content.
    """
    found: dict[str, str] = {}
    for step in with_inputs(config, [searched_step(config).label]):
        found[step.label] = _key(step, {label: found[label] for label in step.inputs}).fingerprint
    return found


def _key(step: Step, inputs: dict[str, str]) -> StageKey:
    config = step.config
    of_files = {"prepare": config.prepare, "profile": config.profile, "encode": config.encode.for_profiles(),
                "encode/items": config.encode.for_items()}
    if step.label in of_files:
        return StageKey(step.stage, 0, of_files[step.label].key() | {"label": step.label}, inputs)
    return step.key(inputs, DigestCache())
