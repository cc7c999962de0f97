"""Runs of a storage as files tell of them: which there are, what they need, and who is at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import ArtifactError, illegal
from pipeline.plan import RUN_FOLDER, STEPS
from pipeline.store import leases


def find_run(run: str, storage: StorageConfig) -> tuple[Storage, str]:
    """Where a run is, and its name.

    Args:
        run: its name below the storage root, or its folder's path or URI.
        storage: for a name.

    Raises:
        ArtifactError: there is no such run.
    """
    where, name = Storage.from_config(storage), run
    if "/" in run:
        folder = run.rstrip("/") if "://" in run else str(Path(run).expanduser().absolute())
        found = RUN_FOLDER.fullmatch(folder)
        if found is None:
            raise ArtifactError(illegal("run", run, "a run's name, or its folder such as results/runs/demo"))
        where, name = Storage.from_config(storage.model_copy(update={"uri": found["root"]})), found["name"]
    if name not in where.names("runs"):
        there = ", ".join(where.names("runs")) or "none"
        raise ArtifactError(illegal("run", run, f"one of those in {where.path('runs')}: {there}"))
    return where, name


def planned(storage: Storage, name: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What the run's last command planned, and the lease of the process that is at work on the run, None: nobody is.

    The first has `steps`, label → fingerprint in build order; `report`, whether one is written at the end; and
    `needed`, label → fingerprints of the artifact and of its inputs, by all commands of the run.

    Raises:
        ArtifactError: a process is just planning it, or it was begun by a version that wrote no plan.
    """
    path = f"runs/{name}/{STEPS}"
    found: dict[str, Any] = storage.read_json(path) if storage.exists(path) else {}
    holder = leases.holder(storage, f"runs/{name}/lock.json")
    if holder is not None and holder.get("token") != found.get("token"):
        raise ArtifactError(f"run {name}: process {holder['pid']} on {holder['host']} is just planning it; try again "
                            "in a moment")
    if not found:
        raise ArtifactError(f"run {name}: there is no {STEPS} in {storage.path(f'runs/{name}')}, so nobody knows what "
                            "it needs; the command that began it writes one")
    return found, holder
