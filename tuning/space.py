"""Where the values of a trial come from: one by one for Optuna, or every combination of a grid."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
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
    return _combinations(tuple(space.items()), {})


def _combinations(left: tuple[tuple[str, Dimension], ...], chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not left:
        yield chosen
        return
    (setting, dimension), *others = left
    assert isinstance(dimension, Choice), "a grid is validated to hold choices alone"
    for extra in [{setting: value} for value in dimension.values] if applies(dimension, chosen) else [{}]:
        yield from _combinations(tuple(others), chosen | extra)


def outline(space: Space, settings: Iterable[str]) -> dict[str, Choice]:
    """Some settings and those that they are conditional on, in choices alone: of a range its bounds, and the values at
    which others mean something."""
    wanted = set(settings)
    for setting in reversed(list(space)):  # a condition names what stands before
        if setting in wanted:
            wanted.update(space[setting].when)
    return {setting: _in_choices(setting, space) for setting in space if setting in wanted}


def _in_choices(setting: str, space: Space) -> Choice:
    dimension = space[setting]
    if isinstance(dimension, Choice):
        return dimension
    named = [value for other in space.values() for value in other.when.get(setting, ())]
    return Choice(when=dimension.when, values=tuple(dict.fromkeys((dimension.low, dimension.high, *named))))


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
