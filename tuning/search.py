"""The search itself: Ray Tune over plain function trainables, resumable by the same command."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.connect import connect
from cluster.storage import Storage
from configs.errors import ConfigError, TrainingError, illegal
from configs.files import resolve_path
from configs.loader import load, validate
from pipeline.config import RunConfig
from pipeline.plan import plan
from pipeline.run import run
from pipeline.store import leases
from pipeline.store.artifacts import changed_keys
from pipeline.work.progress import say
from tuning.config import Choice, GridSearch, TuneConfig, Uniform
from tuning.leaderboard import FAILED, TrialLines, as_csv, lines, ordered, row, watch
from tuning.trial import assign, searched_step, trial

LEADERBOARD = "leaderboard.csv"
BEST = "best.yaml"


@dataclass(frozen=True)
class SearchResult:
    """Where the search's files are, and its best trial."""

    folder: str
    lines: list[str]
    """What a person reads of it; of a dry run, what would be searched."""
    leaderboard: list[dict[str, Any]] = field(default_factory=list)
    """Best first; one row per trial."""
    best: RunConfig | None = None
    """None after a dry run."""


def base_run(config: TuneConfig, path: Path) -> tuple[dict[str, Any], RunConfig]:
    """The run that a search starts from: its raw values and the validated configuration.

    Raises:
        ConfigError: the run does not load, does not distil, or a searched setting does not exist in it.
    """
    beside = path.parent / config.run
    run_config = load(RunConfig, beside if beside.is_file() else config.run, config.overrides)
    if config.execution.gpus_per_trial and not run_config.train.execution.use_gpu:
        raise ConfigError(illegal("execution.gpus_per_trial", config.execution.gpus_per_trial,
                                  "nothing, as the run trains without a GPU (train.execution.use_gpu=false)",
                                  "remove it, or add train.execution.use_gpu=true to the search's overrides"))
    values = run_config.model_dump(mode="json")
    for setting, dimension in config.space.items():
        for value in dimension.values if isinstance(dimension, Choice) else (dimension.low, dimension.high):
            validate(RunConfig, assign(values, {setting: value}), f" in space.{setting} of {path}")
    return values, run_config


def tune(path: str | Path, overrides: tuple[str, ...] = (), dry_run: bool = False) -> SearchResult:
    """Search; write ``leaderboard.csv`` and ``best.yaml`` below ``tune/<name>/``.

    A finished trial is never run again: the same command after a kill resumes what is unfinished.

    Raises:
        ConfigError: a bad configuration, or a search of this name with other settings is already there.
        TrainingError: no trial ended with a metric.
    """
    file = resolve_path(path)
    config = load(TuneConfig, file, overrides)
    values, run_config = base_run(config, file)
    storage = Storage.from_config(run_config.storage)
    folder = f"tune/{config.name}"
    if dry_run:
        return SearchResult(folder, list(_describe(config, run_config, storage)))
    lease = leases.take(storage, f"{folder}/lock.json", folder)
    try:
        _claim(storage, folder, {"search": config.key(), "run": run_config.key() | {"storage": None}})
        with connect(run_config.cluster):
            step = searched_step(run_config)
            built = run(run_config, before=step.label).artifacts
            fixed = {"values": values, "storage": storage, "inputs": {label: built[label] for label in step.inputs}}
            rows = _search(config, fixed, run_config, storage, folder)
        return _conclude(config, values, run_config, storage, folder, rows)
    finally:
        lease.release()


def _describe(config: TuneConfig, run_config: RunConfig, storage: Storage) -> Iterator[str]:
    yield (f"search {config.name}: {_trial_count(config)} trials of {run_config.name} on "
           f"validation {run_config.train.validation_metric}")
    for setting, dimension in config.space.items():
        yield f"  {setting}: {dimension.model_dump(mode='json')}"
    for item in plan(run_config, storage, before=searched_step(run_config).label):
        yield f"  {item.label}: {item.status} {item.key.fingerprint}"


def _trial_count(config: TuneConfig) -> int:
    if not isinstance(config.search, GridSearch):
        return config.search.trials
    return math.prod(len(d.values) for d in config.space.values() if isinstance(d, Choice))


def _claim(storage: Storage, folder: str, settings: dict[str, Any]) -> None:
    """Refuse a search's folder that was begun with other settings."""
    if storage.exists(f"{folder}/search.json"):
        changed = changed_keys(storage.read_json(f"{folder}/search.json"), settings)
        if changed:
            raise ConfigError(f"{folder} was begun with other settings ({'; '.join(changed[:3])}); "
                              "give this search another name (name=…) or delete the folder")
    storage.write_json(f"{folder}/search.json", settings)


def _search(config: TuneConfig, fixed: dict[str, Any], run_config: RunConfig, storage: Storage,
            folder: str) -> list[dict[str, Any]]:
    from ray import tune as ray_tune

    resources = {"cpu": config.execution.cpus_per_trial}
    if run_config.train.execution.use_gpu:
        resources["gpu"] = config.execution.gpus_per_trial or 1.0
    trainable = ray_tune.with_resources(ray_tune.with_parameters(trial, fixed=fixed), resources)
    experiment = storage.path(f"{folder}/ray")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial's traceback; the leaderboard has its line
    if ray_tune.Tuner.can_restore(experiment, storage_filesystem=storage.filesystem):
        say(f"tune: going on with {experiment}")
        tuner = ray_tune.Tuner.restore(experiment, trainable=trainable, resume_unfinished=True, restart_errored=True,
                                       storage_filesystem=storage.filesystem)
    else:
        told = TrialLines(_trial_count(config), run_config.train.validation_metric, config.space)
        tuner = ray_tune.Tuner(trainable, param_space=_param_space(config),
                               tune_config=_tune_config(config, run_config),
                               run_config=ray_tune.RunConfig(
                                   name="ray", storage_path=storage.path(folder), verbose=0, callbacks=[watch(told)],
                                   storage_filesystem=storage.filesystem))
    return ordered([row(result, config.space) for result in tuner.fit()])


def _param_space(config: TuneConfig) -> dict[str, Any]:
    """Ray Tune's search space. Choices travel as JSON strings: samplers want hashable values."""
    from ray import tune as ray_tune

    space: dict[str, Any] = {}
    for setting, dimension in config.space.items():
        if isinstance(dimension, Uniform):
            space[setting] = (ray_tune.loguniform if dimension.log else ray_tune.uniform)(dimension.low, dimension.high)
        else:
            texts = [json.dumps(v, sort_keys=True) for v in dimension.values]
            grid = isinstance(config.search, GridSearch)
            space[setting] = ray_tune.grid_search(texts) if grid else ray_tune.choice(texts)
    return space


def _tune_config(config: TuneConfig, run_config: RunConfig) -> Any:
    from ray import tune as ray_tune

    algorithm, scheduler = None, None
    if not isinstance(config.search, GridSearch):
        import optuna
        from ray.tune.search import ConcurrencyLimiter
        from ray.tune.search.optuna import OptunaSearch as RayOptuna

        algorithm = ConcurrencyLimiter(
            RayOptuna(metric="best", mode="max", sampler=optuna.samplers.TPESampler(seed=config.seed)),
            max_concurrent=config.execution.concurrent_trials)
    if config.asha is not None:
        from ray.tune.schedulers import ASHAScheduler

        train = run_config.train
        # Beyond the last epoch: a trial that comes so far ends by itself, and keeps its artifact.
        scheduler = ASHAScheduler(time_attr="epoch", metric="best", mode="max", max_t=train.epochs + 1,
                                  grace_period=min(train.epochs, train.distill_epochs + config.asha.grace_epochs),
                                  reduction_factor=config.asha.reduction_factor)
    chosen = {} if algorithm or scheduler else {"metric": "best", "mode": "max"}
    samples = 1 if isinstance(config.search, GridSearch) else config.search.trials
    return ray_tune.TuneConfig(num_samples=samples, search_alg=algorithm, scheduler=scheduler,
                               max_concurrent_trials=config.execution.concurrent_trials, **chosen)


def _conclude(config: TuneConfig, values: dict[str, Any], run_config: RunConfig, storage: Storage, folder: str,
              rows: list[dict[str, Any]]) -> SearchResult:
    storage.write_bytes(f"{folder}/{LEADERBOARD}", as_csv(rows))
    if rows[0]["status"] == FAILED or rows[0]["metric"] is None:
        why = rows[0]["reason"] or "none was validated"
        raise TrainingError(f"no trial of {config.name} ended with a metric ({why}); see "
                            f"{storage.path(folder)}/{LEADERBOARD}")
    best = validate(RunConfig, assign(values, {s: rows[0][s] for s in config.space} | {"name": f"{config.name}-best"}))
    import yaml

    storage.write_bytes(f"{folder}/{BEST}", yaml.safe_dump(best.model_dump(mode="json"), sort_keys=False).encode())
    found = lines(rows, run_config.train.validation_metric, f"{storage.path(folder)}/{BEST}")
    return SearchResult(folder, list(found), rows, best)
