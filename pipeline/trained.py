"""Which of a run's recommenders answers. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from configs.errors import ArtifactError, ConfigError, illegal
from pipeline.config import RunConfig
from pipeline.store.artifacts import Artifact

SAME_CASES: Final = ("validation_users", "filter_seen")
"""Settings of training by which validation figures are of the same lists."""


class Trained(NamedTuple):
    """A recommender of a run."""

    label: str
    """``train/<arm>/seed-<seed>``."""
    artifact: Artifact


def choose(config: RunConfig, trained: Mapping[str, Artifact], arm: str | None, seed: int | None) -> Trained:
    """The recommender of an arm and a seed.

    Args:
        trained: the run's `train` artifacts, by label.
        arm: None: of the run's arms that are no control, the best on validation by the run's
            ``train.validation_metric``; the first of equal ones. Those that read profiles in training are validated
            with them and answer without, so they stand aside where there are others.
        seed: None: the run's first.

    Raises:
        ConfigError: the run has no such arm or seed, or which is best is not known.
        ArtifactError: it is not trained yet.
    """
    if arm is not None and arm not in config.trained_arms():
        raise ConfigError(illegal("arm", arm, config.trained_arms()))
    if seed is not None and seed not in config.seeds:
        raise ConfigError(illegal("seed", seed, config.seeds))
    own_seed = config.seeds[0] if seed is None else seed
    labels = [f"train/{name}/seed-{own_seed}" for name in ([arm] if arm is not None else _candidates(config))]
    there = [label for label in labels if label in trained]
    if not there:
        raise ArtifactError(f"run {config.name!r}: {' and '.join(labels)} not trained under these settings; run "
                            "`mentorec train` with the same --config first")
    settings = [trained[label].manifest.key["config"]["train"] for label in there]
    if any(one[name] != settings[0][name] for one in settings for name in SAME_CASES):
        raise ConfigError(f"run {config.name!r}: {' and '.join(there)} are validated on other users or other lists "
                          f"({', '.join(SAME_CASES)}), so which is best is not known; name one: arm=…")
    metric = config.train.validation_metric
    best = max(there, key=lambda label: _validation(trained[label]).get(metric, 0.0))
    return Trained(best, trained[best])


def _validation(trained: Artifact) -> dict[str, float]:
    """Of the parameters that are exported."""
    info = trained.manifest.info
    return info.get("placed_validation") or info.get("validation") or {}


def _candidates(config: RunConfig) -> list[str]:
    """The arms among which the best is looked for."""
    arms = [name for name in config.arms if config.control_for(name) is None] or list(config.arms)
    return [name for name in arms if config.for_arm(name).train.profile_input is None] or arms
