"""Which artifacts a run consists of, which of them are already there, and what changed since the last time.

Imports no torch, Ray or polars: a plan can be printed on a laptop that has none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.storage import Storage
from configs.errors import ConfigError, illegal
from pipeline.config import RunConfig
from pipeline.stage import Step
from pipeline.stages import STAGES
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact, StageKey
from pipeline.store.digests import DigestCache

RUN_FOLDER = re.compile(r"(?P<root>.+)/runs/(?P<name>[^/]+)")
"""A run's folder, as a path or a URI."""
STEPS = "steps.json"
"""In a run's folder: what its last command planned."""
REPORTED = "report.json"
"""In a run's folder: what its report was made from."""

TRAINED = "trained"
"""In a search's folder: a file for each `train` artifact of its trials, written before it is looked for or built."""
NEEDED = "needed.json"
"""In a search's folder: fingerprints of all that its trials train on, written before any of it is built."""


@dataclass(frozen=True)
class PlannedStep:
    """A step, its key, and what a run would do with it."""

    step: Step
    key: StageKey
    status: Literal["reuse", "build"]
    artifact: Artifact | None = None
    changed: list[str] = field(default_factory=list)
    """``name: old → new`` for every key that differs from this run's last artifact of the same label."""

    @property
    def stage(self) -> str:
        return self.step.stage

    @property
    def label(self) -> str:
        return self.step.label


def run_folder(config: RunConfig) -> str:
    """The run's folder below the storage root."""
    return f"runs/{config.name}"


def steps(config: RunConfig, audit: bool = False) -> list[Step]:
    """Every artifact of a run in build order.

    Args:
        audit: include the teacher audit, and the profiles it is about even where no arm has a teacher.
    """
    return with_inputs(config, (step.label for stage in STAGES.values() for step in stage.steps(config)
                                if stage.wanted == "always" or (audit and stage.name == "audit")))


def with_inputs(config: RunConfig, labels: Iterable[str]) -> list[Step]:
    """The steps of these labels and all that they are built from, in build order."""
    every = {step.label: step for stage in STAGES.values() for step in stage.steps(config)}
    wanted: set[str] = set()
    pending = list(labels)
    while pending:
        label = pending.pop()
        if label not in wanted:
            wanted.add(label)
            pending.extend(every[label].inputs)
    return [step for label, step in every.items() if label in wanted]


def keys(steps: Iterable[Step], storage: Storage) -> Iterator[tuple[Step, StageKey]]:
    """Each step with its key. Keys need only configs and raw bytes, never built artifacts."""
    digests = DigestCache(storage)
    fingerprints: dict[str, str] = {}
    for step in steps:
        key = step.key({label: fingerprints[label] for label in step.inputs}, digests)
        fingerprints[step.label] = key.fingerprint
        yield step, key


def plan(config: RunConfig, storage: Storage, until: str | None = None, before: str | None = None
         ) -> list[PlannedStep]:
    """The steps of a run, each with what a run would do.

    Args:
        until: up to and including this stage; None: all. The audit is planned only where it is named.
        before: only what the step of this label is built from.

    Raises:
        ConfigError: ``until`` names no stage.
        ArtifactError: a finished artifact is damaged.
    """
    if until is not None and until not in STAGES:
        raise ConfigError(illegal("stage", until, tuple(STAGES)))
    order = list(STAGES)
    if before is not None:
        wanted = [step for step in with_inputs(config, [before]) if step.label != before]
    else:
        last = order.index(until) if until else len(order)
        wanted = [step for step in steps(config, audit=until == "audit") if order.index(step.stage) <= last]
    known = _references(config, storage)
    planned = []
    for step, key in keys(wanted, storage):
        artifact = artifacts.find(storage, key)
        changed = [] if artifact else _changed(storage, key, known.get(step.label))
        planned.append(PlannedStep(step, key, "reuse" if artifact else "build", artifact, changed))
    return planned


def built_audit(config: RunConfig, storage: Storage) -> Artifact | None:
    """The finished audit of the run's teacher, where there is one."""
    if all(config.teacher(arm) == "plain" for arm in config.arms):
        return None  # no profile of this run would be audited
    *_, (_, key) = keys(with_inputs(config, ["audit"]), storage)
    return artifacts.find(storage, key)


def _references(config: RunConfig, storage: Storage) -> dict[str, Any]:
    path = f"{run_folder(config)}/references.json"
    return dict(storage.read_json(path)) if storage.exists(path) else {}


def _changed(storage: Storage, key: StageKey, old_fingerprint: str | None) -> list[str]:
    path = f"artifacts/{key.stage}/{old_fingerprint}/key.json"
    if old_fingerprint is None or old_fingerprint == key.fingerprint or not storage.exists(path):
        return []
    return artifacts.changed_keys(storage.read_json(path), key.values())
