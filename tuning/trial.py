"""One trial: a plain function that trains in its own process and reports every validated epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from cluster.storage import Storage
from configs.errors import ArtifactError
from configs.loader import merge, validate
from pipeline.config import RunConfig
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact, StageKey
from pipeline.train import keys as train_keys
from pipeline.train.config import Arm


def assign(values: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """Run values with dotted settings replaced; a group of another ``kind`` replaces the old group whole."""
    for setting, value in chosen.items():
        top: Any = value
        for name in reversed(setting.split(".")):
            top = {name: top}
        values = merge(values, top)
    return values


def trial_config(values: dict[str, Any], chosen: dict[str, Any]) -> RunConfig:
    """The run configuration of one trial; it trains in its own process.

    Raises:
        ConfigError: the chosen values do not go together.
    """
    decoded = {name: json.loads(v) if isinstance(v, str) else v for name, v in chosen.items()}
    return validate(RunConfig, assign(values, decoded | {"train.execution.num_workers": 0}))


def searched_arm(config: RunConfig) -> Arm:
    """The arm that a search trains: the first that distils, else the first."""
    return next((arm for arm in config.arms if arm != "plain"), config.arms[0])


def trial(chosen: dict[str, Any], fixed: dict[str, Any]) -> None:
    """Ray Tune's trainable. A train artifact that is already there is reported, not trained again.

    ``fixed`` holds the base run's ``values``, the ``storage``, and the fingerprints of the ``prepare`` artifact, of
    ``reduce`` and of the items' ``reduce`` (None where the searched arm has no teacher, or items start at random).
    """
    from ray import tune

    storage: Storage = fixed["storage"]
    config = trial_config(fixed["values"], chosen)
    arm, seed = searched_arm(config), config.seeds[0]
    key = train_keys.key(config.train, config.model, arm, seed, fixed["prepare"], fixed["reduce"], fixed["items"])

    best = -math.inf

    def announce(epoch: int, value: float) -> None:
        nonlocal best
        best = max(best, value)
        tune.report({"epoch": epoch, "metric": value, "best": best, "fingerprint": key.fingerprint})

    def watch(record: dict[str, Any]) -> None:
        """Only epochs that may be chosen count: validated ones of the fine-tuning phase."""
        if record["phase"] == 2 and config.train.validation_metric in record:
            announce(record["epoch"], record[config.train.validation_metric])

    artifact = artifacts.find(storage, key) or _train(config, storage, key, fixed, watch)
    info = artifact.manifest.info
    announce(info["epochs"], info["best_validation"])


def _train(config: RunConfig, storage: Storage, key: StageKey, fixed: dict[str, Any],
           watch: Callable[[dict[str, Any]], None]) -> Artifact:
    from pipeline.train.stage import train

    prepared = _input(storage, "prepare", fixed["prepare"])
    targets = _input(storage, "reduce", fixed["reduce"]) if fixed["reduce"] else None
    items = _input(storage, "reduce", fixed["items"]) if config.train.item_init else None
    out = artifacts.begin(storage, key, resume=True)
    try:
        return train(config.train, config.model, searched_arm(config), config.seeds[0], prepared, targets, out, watch,
                     items)
    except BaseException:
        out.release()
        raise


def _input(storage: Storage, stage: str, fingerprint: str) -> Artifact:
    artifact = artifacts.open_artifact(storage, stage, fingerprint)
    if artifact is None:
        raise ArtifactError(f"artifacts/{stage}/{fingerprint} is not finished; run the stages up to reduce first")
    return artifact
