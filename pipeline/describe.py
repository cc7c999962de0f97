"""What a run consists of: each stage's resources, columns and key, and whether it would run or be reused.

Imports no torch, Ray or polars.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

from cluster.connect import joins_cluster, local_cpus
from cluster.storage import Storage
from configs.loader import dump
from pipeline.config import RunConfig
from pipeline.plan import PlannedStep, plan
from pipeline.prepare.files import INTERACTIONS, source_files
from pipeline.profile.engines import engine_of
from pipeline.stage import Columns
from pipeline.stages import STAGES
from pipeline.work.hub import written_out
from pipeline.work.text import table


def shortage(config: RunConfig, stage: str) -> str | None:
    """One line when a stage's replicas cannot all run at once on the Ray that would be started here."""
    wanted = STAGES[stage].resources(config)
    there = local_cpus(config.cluster)
    if joins_cluster() or wanted.least_cpus <= there:
        return None
    return f"{stage} asks for {wanted.least_cpus:g} CPUs and the local Ray has {there}"


def local_folders(config: RunConfig, stages: Collection[str]) -> list[str]:
    """Folders of this machine that the stages' workers read: of raw files, and of models."""
    on_ray = "prepare" in stages and config.prepare.execution.workers
    raw = source_files(config.prepare.source) if on_ray else {}
    folders = dict.fromkeys(os.path.abspath(path.parent) for path in raw.get(INTERACTIONS, ()))
    named = [config.encode.model] if "encode" in stages else []
    if "profile" in stages:
        named += [str(getattr(config.profile.engine, name, None) or "") for name in ("model", "tokenizer")]
    models = [written_out(name) for name in named if name]
    return [*folders, *(os.path.abspath(folder) for folder in models if os.path.isdir(folder))]


def dry_run(config: RunConfig, until: str | None = None) -> Iterator[str]:
    """The resolved configuration and the resource plan, as blocks of text."""
    yield dump(config)
    steps = plan(config, Storage.from_config(config.storage), until)
    yield from resource_plan(config, steps)
    yield from _profile_plan(config, steps)


def resource_plan(config: RunConfig, steps: list[PlannedStep]) -> Iterator[str]:
    """One line per step: what would happen, where, under which key."""
    yield table(("step", "would", "key", "resources"),
                [(s.label, s.status, s.key.fingerprint, STAGES[s.stage].resources(config)) for s in steps])
    yield from _changes(steps)
    yield _where(config)
    yield from filter(None, (shortage(config, stage) for stage in dict.fromkeys(s.stage for s in steps)))


def describe(config: RunConfig) -> Iterator[str]:
    """Every stage of a run: resources, required and produced columns, keys, and what a run would do."""
    steps = plan(config, Storage.from_config(config.storage))
    for name, stage in STAGES.items():
        yield f"{name}: {stage.resources(config)}"
        yield from _columns("needs", stage.needs)
        yield from _columns("makes", stage.makes)
        mine = [step for step in steps if step.stage == name]
        yield from (f"  {step.status} {step.key.fingerprint}  {step.label}" for step in mine)
        if stage.wanted == "on request":
            yield f"  part of no run; `mentorec {name}` builds it, and the report then shows it"
        elif not mine and any(stage.steps(config)):
            yield f"  not part of this run (arms: {', '.join(config.arms)})"
    yield from _changes(steps)
    yield _where(config)
    yield from filter(None, (shortage(config, stage) for stage in STAGES))


def _profile_plan(config: RunConfig, steps: list[PlannedStep]) -> Iterator[str]:
    """What the profiles will cost, where they are to be built."""
    by_label = {step.label: step for step in steps}
    profiles = by_label.get("profile")
    if profiles is not None and profiles.status == "build":
        yield from engine_of(config.profile).plan(by_label["prepare"].artifact)


def _columns(verb: str, files: Columns) -> Iterator[str]:
    for file, names in files.items():
        shown = f"{file}/" if names and "." not in file and " " not in file else file
        yield f"  {verb} {shown}" + (f": {', '.join(names)}" if names else "")


def _changes(steps: list[PlannedStep]) -> Iterator[str]:
    for step in steps:
        if step.changed:
            yield f"{step.label}: changed since the last run: {'; '.join(step.changed)}"


def _where(config: RunConfig) -> str:
    ray = "the cluster of RAY_ADDRESS" if joins_cluster() else f"a local Ray with {local_cpus(config.cluster)} CPUs"
    return f"storage: {Storage.from_config(config.storage).path('')}; Ray, where a step needs it: {ray}"
