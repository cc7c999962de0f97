"""How far a run is, told by the storage alone: on any machine that reaches it, while the run works elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import ArtifactError
from pipeline.commands.runs import find_run, planned
from pipeline.plan import REPORTED
from pipeline.stages import STAGES
from pipeline.store import artifacts, leases
from pipeline.work.progress import duration
from pipeline.work.text import size, table


@dataclass(frozen=True)
class StepStatus:
    """A step of a run."""

    label: str
    fingerprint: str
    state: Literal["done", "at work", "stopped", "waiting", "damaged"]
    note: str
    """Its size; or how far it is, as the process at work says; or what will become of it."""
    process: int | None = None
    host: str | None = None
    """Who is at work on it."""


@dataclass(frozen=True)
class RunStatus:
    """A run."""

    name: str
    folder: str
    state: Literal["done", "at work", "stopped"]
    steps: list[StepStatus]
    process: int | None = None
    host: str | None = None
    seconds: float | None = None
    """Since that process began."""
    reported: bool = True
    """Whether the last command was to end in a report."""

    def values(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For a person."""
        done = sum(step.state == "done" for step in self.steps)
        count = f"{done} of {len(self.steps)} steps done"
        if self.state == "at work":
            since = duration(self.seconds or 0)
            yield f"{self.name}: at work, {count}; process {self.process} on {self.host}, for {since}"
        elif self.state == "done":
            yield f"{self.name}: done, {len(self.steps)} steps{'' if self.reported else ', no report'}; {self.folder}"
        else:
            yield f"{self.name}: stopped, {count}; the command that began it goes on"
        yield table(("step", "state", ""), [(step.label, step.state, step.note) for step in self.steps])


def status(run: str, storage: StorageConfig) -> RunStatus:
    """The steps that the run's last command planned, and whether somebody is at work on them.

    Args:
        run: a run's name below the storage root, or its folder.

    Raises:
        ArtifactError: there is no such run, or no plan of it.
    """
    where, name = find_run(run, storage)
    plan, holder = planned(where, name)
    steps = [_step(where, label, fingerprint) for label, fingerprint in plan["steps"].items()]
    folder = where.path(f"runs/{name}")
    if holder is not None:
        return RunStatus(name, folder, "at work", steps, holder["pid"], holder["host"], time.time() - holder["created"],
                         plan["report"])
    whole = all(step.state == "done" for step in steps) and (
        not plan["report"] or where.exists(f"runs/{name}/{REPORTED}"))
    return RunStatus(name, folder, "done" if whole else "stopped", steps, reported=plan["report"])


def _step(storage: Storage, label: str, fingerprint: str) -> StepStatus:
    stage = label.partition("/")[0]
    folder = f"artifacts/{stage}/{fingerprint}"
    try:
        found = artifacts.open_artifact(storage, stage, fingerprint)
    except ArtifactError as exc:
        return StepStatus(label, fingerprint, "damaged", str(exc))
    if found is not None:
        return StepStatus(label, fingerprint, "done", size(sum(found.manifest.files.values())))
    attempts = storage.names(f"{folder}/attempts")
    holder = leases.holder(storage, f"{folder}/{artifacts.LEASE}")
    if holder is not None:
        began = f"for {duration(time.time() - artifacts.begun_at(attempts[-1]))}" if attempts else "beginning"
        return StepStatus(label, fingerprint, "at work", f"{began}; {holder.get('news') or 'no count yet'}",
                          holder["pid"], holder["host"])
    if not attempts:
        return StepStatus(label, fingerprint, "waiting", "")
    return StepStatus(label, fingerprint, "stopped",
                      "goes on where it was" if STAGES[stage].resumable else "begins anew")
