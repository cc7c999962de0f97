"""Runs of a storage as files tell of them: which there are, what they need, and who is at work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import ArtifactError, illegal
from pipeline.plan import STEPS

_RUN = re.compile(r"(?P<root>.+)/runs/(?P<name>[^/]+)")


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
        found = _RUN.fullmatch(folder)
        if found is None:
            raise ArtifactError(illegal("run", run, "a run's name, or its folder such as results/runs/demo"))
        where, name = Storage.from_config(storage.model_copy(update={"uri": found["root"]})), found["name"]
    if not where.exists(f"runs/{name}/{STEPS}"):
        there = ", ".join(where.names("runs")) or "none"
        raise ArtifactError(illegal("run", run, f"one of those in {where.path('runs')}: {there}"))
    return where, name


def planned(storage: Storage, name: str) -> dict[str, Any]:
    """What the run's last command planned: `token` of its lock, and `steps`, label → fingerprint in build order."""
    found: dict[str, Any] = storage.read_json(f"runs/{name}/{STEPS}")
    return found
