"""The trials of a search on Ray Tune: plain function trainables, resumable by the same command."""

from __future__ import annotations

import logging
import os
import warnings
from functools import partial
from pathlib import PurePath
from typing import Any

from cluster.connect import require_dashboard
from cluster.storage import Storage
from configs.errors import ResourceError
from pipeline.config import RunConfig
from pipeline.work.progress import say
from tuning.config import GridSearch, TuneConfig
from tuning.effect import runs_at_ends
from tuning.leaderboard import TrialLines, ordered, row, watch
from tuning.space import COMBINATION, Space, combinations, encode, suggest
from tuning.trial import TUNED, searched_step, trial, trial_config


def trial_count(config: TuneConfig) -> int:
    """Trials of the whole search."""
    if not isinstance(config.search, GridSearch):
        return config.search.trials
    return sum(1 for _ in combinations(config.space))


def metric_of(run_config: RunConfig) -> str:
    """By which trials are compared: the searched arm's."""
    return searched_step(run_config).config.train.validation_metric


def require_workers(config: TuneConfig, run_config: RunConfig) -> None:
    """A trial's group of workers waits ten minutes for its room, and no longer: there must be some for all that run at
    a time. Raises ResourceError."""
    if workers := config.execution.workers_per_trial:
        from pipeline.train.room import shortage_after_waiting

        require_dashboard("execution.workers_per_trial")
        groups = min(config.execution.concurrent_trials, trial_count(config))
        own = searched_step(trial_config(run_config.model_dump(mode="json"), {}, workers)).config.train.execution
        if short := shortage_after_waiting(own.model_copy(update={"num_workers": groups * workers}), "tune"):
            raise ResourceError(f"execution.workers_per_trial={workers} of {groups} trial{'s' * (groups > 1)} at a "
                                f"time: {short}; lower one of the two (execution.concurrent_trials) or "
                                "train.execution.cpus_per_worker, or add nodes")


def search(config: TuneConfig, fixed: dict[str, Any], run_config: RunConfig, storage: Storage, folder: str
           ) -> list[dict[str, Any]]:
    """Run the trials, or those that an earlier call has left; ``fixed`` as :func:`tuning.trial.trial` has it. Ray must
    be running.

    Returns:
        A row of the leaderboard for each, best first.
    """
    from ray import tune as ray_tune

    trainable = ray_tune.with_resources(ray_tune.with_parameters(trial, fixed=fixed), _resources(config, run_config))
    experiment = storage.path(f"{folder}/ray")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial's traceback; the leaderboard has its line
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # of a restored search it prints a table, also with verbose=0
    # A trial that was under way when a search was killed reports its first epochs again.
    warnings.filterwarnings("ignore", "The reported value is ignored because this `step=", UserWarning)
    if ray_tune.Tuner.can_restore(experiment, storage_filesystem=storage.filesystem):
        say(f"tune: going on with {experiment}, with as many trials at a time as it was begun with")
        tuner = ray_tune.Tuner.restore(experiment, trainable=trainable, resume_unfinished=True, restart_errored=True,
                                       storage_filesystem=storage.filesystem)
    else:
        told = TrialLines(trial_count(config), metric_of(run_config))
        grid = {COMBINATION: ray_tune.grid_search([encode(one) for one in combinations(config.space)])} if isinstance(
            config.search, GridSearch) else None
        tuner = ray_tune.Tuner(trainable, param_space=grid,
                               tune_config=_tune_config(config, fixed["values"]),
                               run_config=ray_tune.RunConfig(
                                   name="ray", storage_path=storage.path(folder), verbose=0, callbacks=[watch(told)],
                                   storage_filesystem=storage.filesystem))
    return ordered([row(result, config.space, _traceback(result, storage, folder)) for result in tuner.fit()])


def _resources(config: TuneConfig, run_config: RunConfig) -> dict[str, float]:
    """What Ray reserves for a trial's own process."""
    if config.execution.workers_per_trial:  # they reserve theirs, and it waits; nothing at all is not legal
        return {"cpu": 0, "memory": 1}
    use_gpu = searched_step(run_config).config.train.execution.use_gpu
    gpu = {"gpu": config.execution.gpus_per_trial or 1.0} if use_gpu else {}
    return {"cpu": config.execution.cpus_per_trial or 1.0, **gpu}


def _traceback(result: Any, storage: Storage, folder: str) -> str:
    """Of a trial that failed; Ray looks for it where the search was begun, even if its storage was moved since."""
    file = f"{folder}/ray/{PurePath(result.path).name}/error.txt"
    if result.error or (result.metrics or {}).get("done") or not storage.exists(file):
        return ""
    return storage.read_bytes(file).decode("utf-8", "replace")


def _tune_config(config: TuneConfig, values: dict[str, Any]) -> Any:
    from ray import tune as ray_tune

    algorithm, scheduler = None, None
    if not isinstance(config.search, GridSearch):
        import optuna
        from ray.tune.search import ConcurrencyLimiter
        from ray.tune.search.optuna import OptunaSearch as RayOptuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)  # that it has begun a study
        algorithm = ConcurrencyLimiter(
            RayOptuna(partial(_walk, config.space), metric="best", mode="max",
                      sampler=optuna.samplers.TPESampler(seed=config.seed)),
            max_concurrent=config.execution.concurrent_trials)
    if config.asha is not None:
        from ray.tune.schedulers import ASHAScheduler

        # Beyond the last epoch: a trial that comes so far ends by itself, and keeps its artifact.
        longest = 1 + max(searched_step(one).config.train.epochs
                          for setting in config.space for one in runs_at_ends(values, config.space, setting))
        scheduler = ASHAScheduler(time_attr=TUNED, metric="best", mode="max", max_t=longest,
                                  grace_period=min(longest, config.asha.grace_epochs),
                                  reduction_factor=config.asha.reduction_factor)
    chosen = {} if algorithm or scheduler else {"metric": "best", "mode": "max"}
    samples = 1 if isinstance(config.search, GridSearch) else config.search.trials
    return ray_tune.TuneConfig(num_samples=samples, search_alg=algorithm, scheduler=scheduler,
                               max_concurrent_trials=config.execution.concurrent_trials, **chosen)


def _walk(space: Space, trial: Any) -> None:
    """Optuna's way to define a space while it is walked: what was suggested is what counts. Not a closure, which the
    search's state could not be saved with."""
    suggest(space, trial)
