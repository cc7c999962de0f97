"""Which of a run's recommenders answers. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from configs.errors import ArtifactError, ConfigError, illegal
from pipeline.config import RunConfig
from pipeline.store.artifacts import Artifact

_SAME_CASES: Final = ("validation_users", "filter_seen")
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
            ``train.validation_metric``; the first of equal ones.
        seed: None: the run's first.

    Raises:
        ConfigError: the run has no such arm or seed, or which is best is not known.
        ArtifactError: it is not trained yet.
    """
    if arm is not None and arm not in config.trained_arms():
        raise ConfigError(illegal("arm", arm, config.trained_arms()))
    if seed is not None and seed not in config.seeds:
        raise ConfigError(illegal("seed", seed, config.seeds))
    arms = [arm] if arm is not None else [name for name in config.arms if config.control_for(name) is None]
    own_seed = config.seeds[0] if seed is None else seed
    labels = [f"train/{name}/seed-{own_seed}" for name in arms or config.arms]
    there = [label for label in labels if label in trained]
    if not there:
        raise ArtifactError(f"run {config.name!r}: {' and '.join(labels)} not trained under these settings; run "
                            "`mentorec train` with the same --config first")
    settings = [trained[label].manifest.key["config"]["train"] for label in there]
    if any(one[name] != settings[0][name] for one in settings for name in _SAME_CASES):
        raise ConfigError(f"run {config.name!r}: {' and '.join(there)} are validated on other users or other lists "
                          f"({', '.join(_SAME_CASES)}), so which is best is not known; name one: arm=…")
    metric = config.train.validation_metric
    best = max(there, key=lambda label: (trained[label].manifest.info.get("validation") or {}).get(metric, 0.0))
    return Trained(best, trained[best])
