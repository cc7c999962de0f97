"""Where the values of a trial come from: one by one for Optuna, or every combination of a grid."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tuning.config import Choice, Dimension, Integer

Space = Mapping[str, Dimension]
COMBINATION: Final = "combination"
"""Ray Tune's one parameter of a grid."""


def encode(value: Any) -> str:
    """A choice as samplers want it: hashable."""
    return json.dumps(value, sort_keys=True)


def decode(value: Any) -> Any:
    """A searched value as it is in a configuration."""
    return json.loads(value) if isinstance(value, str) else value


def chosen(config: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's settings, from the configuration that Ray Tune hands it: a grid's come as one encoded combination."""
    if COMBINATION in config:
        return dict(decode(config[COMBINATION]))
    return {setting: decode(value) for setting, value in config.items()}


def applies(dimension: Dimension, chosen: Mapping[str, Any]) -> bool:
    """Whether a trial with these (decoded) values has the dimension too."""
    return all(setting in chosen and chosen[setting] in values for setting, values in dimension.when.items())


def combinations(space: Space) -> Iterator[dict[str, Any]]:
    """Every combination of the choices, each once; a dimension that does not apply is left out of it."""
    found: list[dict[str, Any]] = [{}]
    for setting, dimension in space.items():
        assert isinstance(dimension, Choice), "a grid is validated to hold choices alone"
        found = [one | extra for one in found for extra in
                 ([{setting: value} for value in dimension.values] if applies(dimension, one) else [{}])]
    yield from found


def suggest(space: Space, trial: Any) -> dict[str, Any]:
    """Optuna's values for a trial, in the order of the space; choices are encoded."""
    values: dict[str, Any] = {}
    for setting, dimension in space.items():
        if not applies(dimension, {name: decode(value) for name, value in values.items()}):
            continue
        if isinstance(dimension, Choice):
            values[setting] = trial.suggest_categorical(setting, [encode(value) for value in dimension.values])
        elif isinstance(dimension, Integer):
            values[setting] = trial.suggest_int(setting, dimension.low, dimension.high, log=dimension.log)
        else:
            values[setting] = trial.suggest_float(setting, dimension.low, dimension.high, log=dimension.log)
    return values


def distribution(dimension: Dimension) -> Any:
    """The same as Optuna's distribution."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Choice):
        return CategoricalDistribution([encode(value) for value in dimension.values])
    if isinstance(dimension, Integer):
        return IntDistribution(dimension.low, dimension.high, log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
