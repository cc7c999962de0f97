"""What a run consists of: each stage's resources, columns and key, and whether it would run or be reused.

Imports no torch, Ray or polars.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cluster.connect import joins_cluster, local_cpus
from cluster.storage import Storage
from configs.loader import dump
from pipeline.config import RunConfig
from pipeline.plan import STAGES, PlannedStep, plan
from pipeline.profile.engines import engine_of
from pipeline.store import columns as c
from pipeline.store.rows import ROW_ID
from pipeline.work.text import table


@dataclass(frozen=True)
class Columns:
    """File of an artifact → its columns, as read and as written by a stage."""

    needs: Mapping[str, tuple[str, ...]]
    makes: Mapping[str, tuple[str, ...]]


COLUMNS: Final[Mapping[str, Columns]] = {
    "prepare": Columns(
        needs={"the raw files of prepare.source": ()},
        makes={
            "interactions.parquet": (c.USER_IDX, c.ITEM_IDX, c.TIMESTAMP, c.SIGNAL, c.POSITION, c.SPLIT),
            "items.parquet": (c.ITEM_IDX, c.ITEM_ID, c.TITLE, c.CATEGORY, c.FIELDS, c.COUNT),
            "users.parquet": (c.USER_IDX, c.USER_ID, c.COUNT, c.ATTRIBUTES),
            "histories/": (c.USER_IDX, c.ITEMS, c.SIGNALS, c.TIMESTAMPS),
            "train.arrow": (c.USER_IDX, c.ITEMS),
            "validation.arrow": (c.USER_IDX, c.HISTORY, c.TARGET),
            "test.arrow": (c.USER_IDX, c.HISTORY, c.TARGET),
        },
    ),
    "profile": Columns(
        needs={"histories/": (c.USER_IDX, c.ITEMS, c.SIGNALS),
               "items.parquet": (c.ITEM_IDX, c.TITLE, c.CATEGORY, c.FIELDS)},
        makes={"profiles/": (ROW_ID, c.USER_IDX, c.ANGLE, c.PROFILE),
               "rejected.parquet": (c.USER_IDX, c.ANGLE, c.REASON)},
    ),
    "encode": Columns(
        needs={"profiles/": (ROW_ID, c.USER_IDX, c.ANGLE, c.PROFILE),
               "items.parquet": (c.ITEM_IDX, c.TITLE, c.FIELDS)},
        makes={"vectors/": (c.USER_IDX, c.ANGLE, c.VECTOR, "tokens", "over_length"),
               "vectors/ of items": (c.ITEM_IDX, c.VECTOR, "tokens", "over_length")},
    ),
    "audit": Columns(
        needs={"vectors/": (c.USER_IDX, c.ANGLE, c.VECTOR), "vectors/ of items": (c.ITEM_IDX, c.VECTOR),
               "validation.arrow": (c.USER_IDX, c.HISTORY, c.TARGET)},
        makes={"audit.json": (), "ranks.parquet": ("subject", c.USER_IDX, c.TARGET, c.RANK, c.RANK_UNFILTERED)},
    ),
    "reduce": Columns(
        needs={"vectors/": (c.USER_IDX, c.ANGLE, c.VECTOR)},
        makes={"targets.parquet": (c.USER_IDX, c.ANGLE, c.VECTOR), "items.parquet": (c.ITEM_IDX, c.VECTOR)},
    ),
    "train": Columns(
        needs={"train.arrow": (c.USER_IDX, c.ITEMS), "validation.arrow": (c.USER_IDX, c.HISTORY, c.TARGET),
               "targets.parquet": (c.USER_IDX, c.ANGLE, c.VECTOR)},
        makes={"model/model.safetensors": (), "metrics.jsonl": ()},
    ),
    "evaluate": Columns(
        needs={"test.arrow": (c.USER_IDX, c.HISTORY, c.TARGET), "model/model.safetensors": ()},
        makes={"ranks.parquet": (c.USER_IDX, "target", c.RANK, c.RANK_UNFILTERED, "history_length", "target_count"),
               "top.parquet": (c.USER_IDX, "top", "top_unfiltered"), "metrics.json": ()},
    ),
    "report": Columns(needs={"every artifact above": ()},
                      makes={"metrics.json": (), "report.md": (), "report.html": ()}),
}


@dataclass(frozen=True)
class Resources:
    """What a stage asks of Ray; no replicas: it works in the driver's own process."""

    replicas: int = 0
    cpus: float = 0.0
    """Per replica."""
    gpus: float = 0.0
    """Per replica."""
    above_rows: int | None = None
    """Ray is asked only for more rows than this; None: whatever the rows."""

    def __str__(self) -> str:
        if not self.replicas:
            return "this process"
        gpus = f" + {self.gpus:g} GPU" if self.gpus else ""
        asked = f"{self.replicas} × ({self.cpus:g} CPU{gpus})"
        return asked if self.above_rows is None else f"this process; above {self.above_rows:,} rows {asked}"


def resources(config: RunConfig, stage: str) -> Resources:
    """The resources a stage is set to ask for."""
    if stage in ("profile", "encode"):
        actors = (config.profile.engine.demand(config.profile.execution) if stage == "profile"
                  else config.encode.execution)
        return Resources(actors.actors, actors.num_cpus, actors.num_gpus)
    if stage == "reduce":
        actors = config.reduce.execution
        return Resources(actors.actors, actors.num_cpus, actors.num_gpus,
                         None if actors.num_gpus else config.reduce.fit_rows)
    if stage == "train":
        workers = config.train.execution
        return Resources(workers.num_workers, workers.cpus_per_worker, float(workers.use_gpu))
    if stage == "evaluate":
        tasks = config.evaluate.execution
        return Resources(tasks.workers, 1.0, float(tasks.use_gpu))
    return Resources()


def shortage(config: RunConfig, stage: str) -> str | None:
    """One line when a stage's replicas cannot all run at once on the Ray that would be started here."""
    wanted = resources(config, stage)
    there = local_cpus(config.cluster)
    if joins_cluster() or wanted.replicas * wanted.cpus <= there:
        return None
    return f"{stage} asks for {wanted.replicas * wanted.cpus:g} CPUs and the local Ray has {there}"


def dry_run(config: RunConfig, until: str | None = None) -> Iterator[str]:
    """The resolved configuration and the resource plan, as blocks of text."""
    yield dump(config)
    steps = plan(config, Storage.from_config(config.storage), until)
    yield from resource_plan(config, steps)
    yield from _profile_plan(config, steps)


def resource_plan(config: RunConfig, steps: list[PlannedStep]) -> Iterator[str]:
    """One line per step: what would happen, where, under which key."""
    yield table(("step", "would", "key", "resources"),
                [(s.label, s.status, s.key.fingerprint, resources(config, s.stage)) for s in steps])
    yield from _changes(steps)
    yield _where(config)
    yield from filter(None, (shortage(config, stage) for stage in dict.fromkeys(s.stage for s in steps)))


def describe(config: RunConfig) -> Iterator[str]:
    """Every stage of a run: resources, required and produced columns, keys, and what a run would do."""
    steps = plan(config, Storage.from_config(config.storage))
    for stage in STAGES:
        yield f"{stage}: {resources(config, stage)}"
        yield from _columns("needs", COLUMNS[stage].needs)
        yield from _columns("makes", COLUMNS[stage].makes)
        for step in (s for s in steps if s.stage == stage):
            yield f"  {step.status} {step.key.fingerprint}  {step.label}"
        if stage == "audit":
            yield "  part of no run; `mentorec audit` builds it, and the report then shows it"
        elif stage != "report" and not any(s.stage == stage for s in steps):
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


def _columns(verb: str, files: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    for file, names in files.items():
        yield f"  {verb} {file}" + (f": {', '.join(names)}" if names else "")


def _changes(steps: list[PlannedStep]) -> Iterator[str]:
    for step in steps:
        if step.changed:
            yield f"{step.label}: changed since the last run: {'; '.join(step.changed)}"


def _where(config: RunConfig) -> str:
    ray = "the cluster of RAY_ADDRESS" if joins_cluster() else f"a local Ray with {local_cpus(config.cluster)} CPUs"
    return f"storage: {Storage.from_config(config.storage).path('')}; Ray, where a step needs it: {ray}"
