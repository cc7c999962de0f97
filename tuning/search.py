"""A search from its file to its winner."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.connect import connect
from cluster.faults import storage_errors
from cluster.nodes import OneView
from cluster.storage import Storage
from configs.errors import ConfigError, TrainingError, illegal
from configs.files import files_of, resolve_path
from configs.loader import dump, load, validate
from pipeline.config import RunConfig
from pipeline.plan import NEEDED, run_folder
from pipeline.report.summary import summary_table
from pipeline.run import run
from pipeline.stages import STAGES
from pipeline.store.artifacts import begun_otherwise, changed_keys, is_fingerprint
from pipeline.train.keys import VERSIONS
from pipeline.work.building import take_folder
from tuning.before import Before, Inputs, survey
from tuning.config import Choice, TuneConfig
from tuning.effect import chain, require_effect, runs_at_ends
from tuning.experiment import metric_of, require_workers, search, trial_count
from tuning.leaderboard import FAILED, as_csv, described, lines
from tuning.page import search_page
from tuning.trial import assign, searched_step, trial_config

SEARCH = "search.json"
LEADERBOARD = "leaderboard.csv"
BEST = "best.yaml"
PAGE = "search.html"


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


def run_file(config: TuneConfig, path: Path) -> Path:
    """The file of the run that the search at ``path`` starts from."""
    neighbour = path.parent / config.run
    return neighbour if neighbour.is_file() else resolve_path(config.run)


def base_run(config: TuneConfig, path: Path) -> tuple[dict[str, Any], RunConfig]:
    """The run that a search starts from: its raw values and the validated configuration.

    Raises:
        ConfigError: the run does not load, a searched setting does not exist in it, its values do not change what the
            searched arm learns or change what it is measured by, or more stands before the trials than can be built.
    """
    run_config = load(RunConfig, run_file(config, path), config.overrides)
    if config.execution.gpus_per_trial and not searched_step(run_config).config.train.execution.use_gpu:
        raise ConfigError(illegal("execution.gpus_per_trial", config.execution.gpus_per_trial,
                                  "nothing, as the run trains without a GPU (train.execution.use_gpu=false)",
                                  "remove it, or add train.execution.use_gpu=true to the search's overrides"))
    values = _found_anywhere(run_config.model_dump(mode="json"))
    for setting in config.space:
        require_effect(setting, run_config,
                       runs_at_ends(values, config.space, setting, f" in space.{setting} of {path}"))
    survey(values, config.space)
    return values, run_config


def _found_anywhere(values: dict[str, Any]) -> dict[str, Any]:
    """A run's values with the paths of models that trainings start from made absolute: trials work in folders of their
    own."""
    for train in (values["train"], *(recipe["train"] for recipe in values["recipes"].values())):
        if "init_from" in train:
            train["init_from"] = _absolute(train["init_from"])
    return values


def _absolute(model: Any) -> Any:
    """A model to start from, by a path that leads to it from every folder."""
    return model if model is None or is_fingerprint(model) else str(Path(model).absolute())


def with_overrides(file: Path, overrides: Sequence[str]) -> TuneConfig:
    """The search of a file, its own settings and those of its run given beside it."""
    of_run = [given for given in overrides
              if _group(given) in RunConfig.model_fields.keys() - TuneConfig.model_fields.keys()]
    config = load(TuneConfig, file, [given for given in overrides if given not in of_run])
    space = {setting: dimension.model_copy(update={"values": tuple(map(_absolute, dimension.values))})
             if isinstance(dimension, Choice) and setting.endswith("train.init_from") else dimension
             for setting, dimension in config.space.items()}
    return config.model_copy(update={"overrides": (*config.overrides, *of_run), "space": space})


def read_search(config: str, overrides: Sequence[str]) -> tuple[RunConfig, list[tuple[str, Path]]]:
    """The run of a search, and every file that both are read from, each behind the setting that names it."""
    file = resolve_path(config)
    search = with_overrides(file, overrides)
    run_config = base_run(search, file)[1]
    return run_config, [*(("--config", each) for each in files_of(config)),
                        *((f"run of {file.name}", each) for each in files_of(run_file(search, file)))]


def _group(override: str) -> str:
    """The first name of a setting: ``storage`` of ``storage.uri=…``."""
    return re.split(r"[.=]", override)[0]


def tune(path: str | Path, overrides: tuple[str, ...] = (), dry_run: bool = False, confirmed: bool = False
         ) -> SearchResult:
    """Search; write ``leaderboard.csv``, ``best.yaml`` and the page ``search.html`` below ``tune/<name>/``.

    A finished trial is never run again: the same command after a kill resumes what is unfinished.

    Args:
        path: the search's file.
        overrides: settings over the file's; those that are not the search's own but the run's (``storage.uri=…``) come
            after its ``overrides``.
        dry_run: tell what would be searched, and do nothing.
        confirmed: a price above ``profile.max_cost_without_confirm`` was agreed to.

    Raises:
        ConfigError: a bad configuration, or a search of this name with other settings is already there.
        TrainingError: no trial ended with a metric.
    """
    file = resolve_path(path)
    config = with_overrides(file, overrides)
    values, run_config = base_run(config, file)
    storage = Storage.from_config(run_config.storage)
    folder, before = f"tune/{config.name}", survey(values, config.space)
    if dry_run:
        return SearchResult(folder, list(_describe(config, run_config, before, storage)))
    settings = claimed(config, run_config)
    lease = take_folder(storage, folder)
    try:
        _require_as_begun(storage, folder, settings)
        with connect(run_config.cluster, dashboard=config.execution.workers_per_trial > 0):
            OneView(storage).require()
            require_workers(config, run_config)
            storage.write_json(f"{folder}/{SEARCH}", settings)  # what is refused begins nothing
            fixed = {"values": values, "storage": storage, "folder": folder,
                     "workers": config.execution.workers_per_trial,
                     "inputs": _inputs(before, storage, folder, confirmed)}
            rows = search(config, fixed, run_config, storage, folder)
        result = _conclude(config, values, run_config, storage, folder, rows)
        return _finish(config, result, confirmed)
    finally:
        lease.release()


def _inputs(before: Before, storage: Storage, folder: str, confirmed: bool) -> Inputs:
    """All that trials are trained from, found or built."""
    with storage_errors(storage.base):
        direct: dict[str, set[str]] = {}
        needed: set[str] = set()
        plans = list(before.plans(storage))
        for _, own, planned in plans:
            prints = {item.label: item.key.fingerprint for item in planned}
            needed.update(prints.values())
            for label in searched_step(own).inputs:
                direct.setdefault(label, set()).add(prints[label])
        _require_same_inputs(storage, folder, {label: " ".join(sorted(found)) for label, found in direct.items()})
        storage.write_json(f"{folder}/{NEEDED}", sorted(needed))
        return before.build(storage, plans, confirmed)


def _describe(config: TuneConfig, run_config: RunConfig, before: Before, storage: Storage) -> Iterator[str]:
    step = searched_step(run_config)
    yield (f"search {config.name}: {trial_count(config)} trials of {run_config.name}, {step.label}, on "
           f"validation {metric_of(run_config)}")
    for setting, dimension in config.space.items():
        told = " (changes what stands before train)" if setting in before.settings else ""
        yield f"  {setting}: {described(dimension)}{told}"
    union = {item.key.fingerprint: item for _, _, planned in before.plans(storage) for item in planned}
    for item in sorted(union.values(), key=lambda item: list(STAGES).index(item.stage)):
        yield f"  {item.label}: {item.status} {item.key.fingerprint}"
    new = sum(item.status == "build" for item in union.values())
    of = f" of {len(before.runs)} combinations" if before.settings else ""
    yield f"before the first trial: {len(union)} artifact{'s' * (len(union) != 1)}{of}, {new} to build"


def claimed(config: TuneConfig, run_config: RunConfig) -> dict[str, Any]:
    """What a search's folder is begun with: all that can change a figure, wherever it is kept and computed. The run's
    overrides stand in the run itself. Two workers or more draw dropout masks of their own; what a trial by workers
    reserves, and how many run at a time, Ray keeps from the first call on."""
    execution = config.execution
    workers = {"workers_per_trial": execution.workers_per_trial, "concurrent_trials": execution.concurrent_trials}
    return {"search": config.model_copy(update={"overrides": ()}).key(),
            "run": run_config.key() | {"storage": None, "cluster": None}} | (
                workers if execution.workers_per_trial else {})


def _require_as_begun(storage: Storage, folder: str, settings: dict[str, Any]) -> None:
    """Refuse a search's folder that was begun with other settings."""
    path = f"{folder}/{SEARCH}"
    changed = changed_keys(storage.read_json(path), settings) if storage.exists(path) else []
    if changed:
        raise ConfigError(f"{folder} was begun with other settings ({'; '.join(changed[:3])}); "
                          "give this search another name (name=…) or delete the folder")


def _require_same_inputs(storage: Storage, folder: str, inputs: dict[str, str]) -> None:
    """Trials are compared on one and the same data, also those of earlier calls."""
    changed = begun_otherwise(storage, f"{folder}/inputs.json", {"inputs": inputs, "train": list(VERSIONS)})
    if changed:
        raise ConfigError(f"the trials in {folder} were trained on other data, texts or models than are there now, or "
                          f"by another version ({'; '.join(changed[:3])}); give this search another name (name=…) or "
                          "delete the folder")


def _conclude(config: TuneConfig, values: dict[str, Any], run_config: RunConfig, storage: Storage, folder: str,
              rows: list[dict[str, Any]]) -> SearchResult:
    storage.write_bytes(f"{folder}/{LEADERBOARD}", as_csv(rows))
    if rows[0]["status"] == FAILED or rows[0]["metric"] is None:
        why = rows[0]["reason"] or "none was validated"
        raise TrainingError(f"no trial of {config.name} ended with a metric ({why}); see "
                            f"{storage.path(folder)}/{LEADERBOARD}")
    metric = metric_of(run_config)
    won = {setting: rows[0][setting] for setting in config.space if setting in rows[0]}
    named, workers = won | {"name": f"{config.name}-best"}, config.execution.workers_per_trial
    # Trained by as many: with dropout, two workers or more give other weights than one.
    best = trial_config(values, named, workers) if workers else validate(RunConfig, assign(values, named))
    storage.write_bytes(f"{folder}/{BEST}", dump(best).encode())
    where = f"{storage.path(folder)}/{BEST}"
    final = (f"It is run with seeds {', '.join(map(str, config.final_seeds))} and scored on the test part once: "
             f"{storage.path(run_folder(best))}/report.html." if config.final_seeds else
             f"How it does over seeds and on the test part: mentorec run --config {where} seeds=[0,1,2]")
    told = [final, *_unequal(config, values, run_config), *_trained_anew(best, trial_config(values, named, workers))]
    storage.write_bytes(f"{folder}/{PAGE}", search_page(config.name, metric, config.space, rows, told,
                                                          config.asha is not None).encode())
    return SearchResult(folder, [*lines(rows, metric, where), *told[1:], f"page: {storage.path(folder)}/{PAGE}"], rows,
                        best)


def _unequal(config: TuneConfig, values: dict[str, Any], run_config: RunConfig) -> Iterator[str]:
    """That the plain arm shares settings which were searched for another arm; a sentence."""
    arm = searched_step(run_config).label.split("/")[1]
    shared = [] if arm == "plain" or "plain" not in run_config.arms else [
        setting for setting in config.space if len({chain(one.model_copy(update={"arms": ("plain",)}))[
            f"train/plain/seed-{one.seeds[0]}"] for one in runs_at_ends(values, config.space, setting)}) > 1]
    if shared:
        yield (f"Searched for {arm} alone, and set for plain too: {', '.join(shared)}. Before the two are compared, "
               "search plain over them with as many trials (arms=[plain]), or search recipes.<arm>.… in their place.")


def _trained_anew(best: RunConfig, tried: RunConfig) -> Iterator[str]:
    """That the winner's training is not the trial's; a sentence."""
    step = searched_step(best)
    if chain(best)[step.label] != chain(tried)[step.label]:
        yield (f"The best trial trained in its own process. By the {step.config.train.execution.num_workers} workers "
               f"of {BEST}, whose dropout masks are others, it is another training: search with "
               "execution.workers_per_trial, or set num_workers to 0 there.")


def _finish(config: TuneConfig, result: SearchResult, confirmed: bool) -> SearchResult:
    """Run the winner over its seeds, where that is asked for."""
    if not config.final_seeds or result.best is None:
        return result
    final = run(validate(RunConfig, result.best.model_dump(mode="json") | {"seeds": config.final_seeds}),
                confirmed=confirmed)
    assert final.metrics is not None, "a whole run ends with a report"
    return replace(result, lines=[*result.lines, "", summary_table(final.metrics)])
