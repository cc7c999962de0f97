"""One trial: a plain function that trains in its own process and reports every validated epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from cluster.storage import Storage
from configs.files import merge
from configs.loader import validate
from pipeline.config import RunConfig
from pipeline.plan import TRAINED
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact, StageKey
from pipeline.store.digests import DigestCache
from pipeline.train.definition import TrainStep
from tuning.space import chosen


def assign(values: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Run values with dotted settings replaced; a group of another ``kind`` replaces the old group whole."""
    for setting, value in settings.items():
        top: Any = value
        for name in reversed(setting.split(".")):
            top = {name: top}
        values = merge(values, top)
    return values


def trial_config(values: dict[str, Any], settings: dict[str, Any]) -> RunConfig:
    """The run configuration of a trial with these settings; it trains in its own process.

    Raises:
        ConfigError: the chosen values do not go together.
    """
    return validate(RunConfig, assign(values, settings | {"train.execution.num_workers": 0}))


def searched_step(config: RunConfig) -> TrainStep:
    """What a search trains: the first arm that distils, else the first, with the first seed."""
    arm = next((arm for arm in config.arms if arm != "plain"), config.arms[0])
    return TrainStep.of(config, arm, config.seeds[0])


def trial(given: dict[str, Any], fixed: dict[str, Any]) -> None:
    """Ray Tune's trainable. A train artifact that is already there is reported, not trained again.

    ``fixed`` holds the base run's ``values``, the ``storage``, the search's ``folder``, and the ``inputs`` of the
    searched step by label.
    """
    from ray import tune

    storage: Storage = fixed["storage"]
    inputs: dict[str, Artifact] = fixed["inputs"]
    step = searched_step(trial_config(fixed["values"], chosen(given)))
    key = step.key({label: artifact.fingerprint for label, artifact in inputs.items()}, DigestCache(storage))
    storage.write_json(f"{fixed['folder']}/{TRAINED}/{key.fingerprint}.json", {})
    metric = step.config.train.validation_metric
    best = -math.inf

    def announce(epoch: int, value: float) -> None:
        nonlocal best
        best = max(best, value)
        tune.report({"epoch": epoch, "metric": value, "best": best, "fingerprint": key.fingerprint})

    def watch(record: dict[str, Any]) -> None:
        """Only epochs that may be chosen count: validated ones of the fine-tuning phase."""
        if record["phase"] == 2 and metric in record:
            announce(record["epoch"], record[metric])

    artifact = artifacts.find(storage, key) or _train(step, storage, key, inputs, watch)
    info = artifact.manifest.info
    announce(info["epochs"], info["best_validation"])


def _train(step: TrainStep, storage: Storage, key: StageKey, inputs: dict[str, Artifact],
           watch: Callable[[dict[str, Any]], None]) -> Artifact:
    out = artifacts.begin(storage, key, resume=True)
    try:
        return step.train(inputs, out, watch)
    except BaseException:
        out.release()
        raise
