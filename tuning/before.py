"""What the trials of a search are trained from: where its settings change that, the union over all their combinations,
built once before the first trial. Each trial finds its own in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cluster.storage import Storage
from configs.errors import ConfigError, illegal
from configs.loader import validate
from pipeline.config import RunConfig
from pipeline.plan import PlannedStep, plan, run_folder
from pipeline.run import RunResult, find_or_build_all
from pipeline.store.artifacts import Artifact
from tuning.config import Choice
from tuning.effect import chain
from tuning.space import Space, combinations, encode, outline
from tuning.trial import assign, searched_step

Planned = tuple[str, RunConfig, list[PlannedStep]]
"""A combination, by `chosen_of`, the run that it makes, and what its training is built from."""
MOST_ARTIFACTS: Final = 1_000
_MOST_COMBINATIONS: Final = 10_000


def chosen_of(settings: Iterable[str], chosen: Mapping[str, Any]) -> str:
    """What a trial's values say of some settings, as a key."""
    return encode({setting: chosen[setting] for setting in settings if setting in chosen})


@dataclass(frozen=True)
class Inputs:
    """The artifacts from which trainings take what they read, by label, for every combination of the settings that
    change them. Picklable."""

    settings: tuple[str, ...]
    artifacts: Mapping[str, Mapping[str, Artifact]]

    def of(self, chosen: Mapping[str, Any]) -> Mapping[str, Artifact]:
        """Of a trial with these values.

        Raises:
            ConfigError: its values do not go together with the run's.
        """
        key = chosen_of(self.settings, chosen)
        if key not in self.artifacts:
            raise ConfigError(f"{key}: these values do not go together, so nothing was built for them")
        return self.artifacts[key]


@dataclass(frozen=True)
class Before:
    """What stands before the trials."""

    settings: tuple[str, ...]
    """Those that change it, in the order of the space."""
    runs: Mapping[str, RunConfig]
    """Their combinations, by `chosen_of`, each with the run that it makes; where there are none, the run itself."""

    def plans(self, storage: Storage) -> Iterator[Planned]:
        """Each combination with what its training is built from."""
        for key, config in self.runs.items():
            yield key, config, plan(config, storage, before=searched_step(config).label)

    def build(self, storage: Storage, planned: list[Planned], confirmed: bool) -> Inputs:
        """Find or build all of it, as ``plans`` says; what several combinations share is built once."""
        if not confirmed:
            _demand_agreement(planned)
        found: dict[str, Mapping[str, Artifact]] = {}
        for key, config, steps in planned:
            result = RunResult(run_folder(config))
            find_or_build_all(config, storage, steps, confirmed, result)
            found[key] = dict(result.artifacts)  # which of them a training reads may follow from further settings
        return Inputs(self.settings, found)


def survey(values: dict[str, Any], space: Space) -> Before:
    """What stands before the trials of a search.

    Raises:
        ConfigError: a range changes it, or it is far too much.
    """
    chains = _Chains(values)
    settings: list[str] = []
    while (more := next((s for s in space if s not in settings and _shapes(s, settings, space, chains)), None)):
        if not isinstance(space[more], Choice):
            raise ConfigError(illegal(f"space.{more}.kind", space[more].kind, "choice",
                                      "it changes what stands before train, which is built once for all trials; list "
                                      "its values" + _of_the_arm(more, values)))
        settings.append(more)
    ordered = tuple(setting for setting in space if setting in settings)
    runs: dict[str, RunConfig] = {}
    artifacts: set[str] = set()
    for combination in _combinations(space, ordered):
        own = {setting: combination[setting] for setting in ordered if setting in combination}
        needed = chains(combination)  # with what the values' conditions ask for
        if needed is not None:  # else every trial with these values tells why it fails
            runs.setdefault(chosen_of(ordered, own), chains.run(combination))
            artifacts |= {digest for _, digest in needed}
            if len(artifacts) > MOST_ARTIFACTS:
                raise ConfigError(f"space: the combinations of {', '.join(ordered)} need more than {MOST_ARTIFACTS:,} "
                                  "artifacts before the first trial; name fewer values, or search some of the settings "
                                  "in a search of their own")
    return Before(ordered, runs)


def _demand_agreement(planned: Iterable[Planned]) -> None:
    """A limit is one set of profiles': several may come to many times as much. Raises ConfigError."""
    costly = {step.key.fingerprint for _, config, steps in planned for step in steps
              if step.stage == "profile" and step.artifact is None
              and config.profile.max_cost_without_confirm is not None}
    if len(costly) > 1:
        raise ConfigError(f"profile.max_cost_without_confirm: {len(costly)} sets of profiles are to be written before "
                          "the first trial, and the limit is for one; look at --dry-run, then agree to all of them "
                          "with --yes, or leave the limit out")


def _of_the_arm(setting: str, values: dict[str, Any]) -> str:
    """How a setting of all arms is searched for the searched one alone, where it may be."""
    arm = searched_step(validate(RunConfig, values)).label.split("/")[1]
    of_all = setting.startswith(("train.", "model.")) and arm in values["recipes"]
    return f", or search recipes.{arm}.{setting}, which is of this arm alone" if of_all else ""


class _Chains:
    """What stands before `train` with some settings changed; worked out once for each set of values."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        self._known: dict[str, frozenset[tuple[str, str]] | None] = {}

    def run(self, settings: dict[str, Any]) -> RunConfig:
        """The run with these settings."""
        return validate(RunConfig, assign(self._values, settings))

    def __call__(self, settings: dict[str, Any]) -> frozenset[tuple[str, str]] | None:
        """Labels and digests (:func:`tuning.effect.chain`); None: the settings do not go together."""
        key = encode(settings)
        if key not in self._known:
            try:
                *needed, _ = chain(self.run(settings)).items()
                self._known[key] = frozenset(needed)
            except ConfigError:
                self._known[key] = None
        return self._known[key]


def _shapes(setting: str, beside: Iterable[str], space: Space, chains: _Chains) -> bool:
    """Whether what stands before `train` differs by a setting's values, or from what it is with the run's own, beside
    some values of others."""
    for combination in _combinations(space, (*beside, setting)):
        others = {name: value for name, value in combination.items() if name != setting}
        if len({chains(combination), chains(others)} - {None}) > 1:
            return True
    return False


def _combinations(space: Space, settings: Iterable[str]) -> Iterator[dict[str, Any]]:
    part = outline(space, settings)
    for number, combination in enumerate(combinations(part)):
        if number == _MOST_COMBINATIONS:
            raise ConfigError(f"space: {', '.join(part)} change what stands before train, in more than "
                              f"{_MOST_COMBINATIONS:,} combinations; name fewer values, or search some of them in a "
                              "search of their own")
        yield combination
