"""One trial: a plain function that trains, in its own process or by workers, and reports every validated epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cluster.storage import Storage
from configs.files import merge
from configs.loader import validate
from pipeline.config import RunConfig
from pipeline.plan import TRAINED
from pipeline.store.digests import DigestCache
from pipeline.train.definition import TrainStep
from pipeline.work.building import find_or_build
from tuning.space import chosen

if TYPE_CHECKING:
    from tuning.before import Inputs

TUNED = "tuned_epochs"
"""What a trial reports beside its epoch: epochs since the last phase switch, by which ASHA compares trials."""


def assign(values: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Run values with dotted settings replaced; a group of another ``kind`` replaces the old group whole."""
    for setting, value in settings.items():
        top: Any = value
        for name in reversed(setting.split(".")):
            top = {name: top}
        values = merge(values, top)
    return values


def trial_config(values: dict[str, Any], settings: dict[str, Any], workers: int = 0) -> RunConfig:
    """The run configuration of a trial with these settings; it trains in its own process, or by so many workers. Where
    the searched arm is a recipe, all others train as the run says, the members of its ensemble among them.

    Raises:
        ConfigError: the chosen values do not go together.
    """
    values = assign(values, settings)
    arm = searched_arm(values["arms"])
    here = {"train": {"execution": {"num_workers": workers} | ({"shard_item_table": False} if workers < 2 else {})}}
    return validate(RunConfig, merge(values, {"recipes": {arm: here}} if arm in values["recipes"] else here))


def searched_arm(arms: Sequence[str]) -> str:
    """The first that is not plain, else plain."""
    return next((arm for arm in arms if arm != "plain"), arms[0])


def searched_step(config: RunConfig) -> TrainStep:
    """What a search trains: :func:`searched_arm` with the first seed."""
    return TrainStep.of(config, searched_arm(config.arms), config.seeds[0])


def told_again(history: Iterable[Mapping[str, Any]], metric: str, keeps_last: bool
               ) -> Iterator[tuple[int, float, float]]:
    """Epoch, value and best so far of a finished training's validated epochs that may be chosen, as it told them."""
    best = -math.inf
    for record in history:
        if record["phase"] == 2:
            best = record[metric] if keeps_last else max(best, record[metric])
            yield record["epoch"], record[metric], best


def trial(given: dict[str, Any], fixed: dict[str, Any]) -> None:
    """Ray Tune's trainable. A train artifact that is already there is not trained again: it reports its epochs as if it
    were, for ASHA compares trials by what they had at one epoch.

    ``fixed`` holds the base run's ``values``, the ``storage``, the search's ``folder``, the ``inputs`` of all trials,
    and the number of ``workers`` of each.
    """
    from ray import tune

    storage: Storage = fixed["storage"]
    step = searched_step(trial_config(fixed["values"], chosen(given), fixed["workers"]))
    given_inputs: Inputs = fixed["inputs"]
    built = given_inputs.of(chosen(given))
    inputs = {label: built[label] for label in step.inputs}
    key = step.key({label: artifact.fingerprint for label, artifact in inputs.items()}, DigestCache(storage))
    storage.write_json(f"{fixed['folder']}/{TRAINED}/{key.fingerprint}.json", {})
    config = step.config.train
    metric, switch, told = config.validation_metric, config.last_switch, False

    def announce(epoch: int, value: float, best: float) -> None:
        nonlocal told
        told = True
        tune.report({"epoch": epoch, TUNED: epoch - switch, "metric": value, "best": best,
                     "fingerprint": key.fingerprint})

    def watch(record: dict[str, Any]) -> None:
        """Only epochs that may be chosen count: validated ones of the fine-tuning phase. Those of workers are not all
        seen here: what is best so far stands for the one that was missed."""
        best = record["best"] and record["best"][metric]  # a trial that goes on has earlier epochs
        if record["phase"] == 2 and best is not None and (metric in record or fixed["workers"]):
            announce(record["epoch"], record.get(metric, best), best)

    artifact = find_or_build(storage, key, "tune", lambda out: step.train(inputs, out, watch), resumable=True,
                             found="trained before")
    info = artifact.manifest.info
    if not told:
        for epoch, value, best in told_again(info["history"], metric, config.compat == "upstream"):
            announce(epoch, value, best)
    announce(info["epochs"], info["best_validation"], info["best_validation"])
