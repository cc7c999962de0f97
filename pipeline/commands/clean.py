"""What of a storage no run and no search needs, how much it takes, and its removal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.storage import Storage
from configs.errors import ArtifactError, illegal
from pipeline.plan import STEPS, TRAINED
from pipeline.store import leases
from pipeline.store.artifacts import LEASE, is_fingerprint
from pipeline.work.text import size, table

_FINGERPRINT = re.compile(r'"([0-9a-f]{16})"')
LEDGER = "ledger"


@dataclass
class Cleaning:
    """What would go, and what stays."""

    storage: Storage
    goes: list[tuple[str, int, str]] = field(default_factory=list)
    """Path below the root, bytes, why."""
    stays: Counter[str] = field(default_factory=Counter)
    """Whoever needs it → artifacts; one that several need counts for each."""
    bytes_kept: int = 0
    ledger_bytes: int = 0

    @property
    def bytes_freed(self) -> int:
        return sum(count for _, count, _ in self.goes)

    def lines(self, removed: bool) -> Iterator[str]:
        """For a person."""
        if self.goes:
            yield table(("path", "size", "why"), [(path, size(count), why) for path, count, why in self.goes])
        needed = ", ".join(f"{who} ({count})" for who, count in sorted(self.stays.items()))
        yield f"kept: {size(self.bytes_kept)} of artifacts, needed by {needed}" if needed else "kept: no artifact"
        if self.ledger_bytes:
            yield (f"kept: {size(self.ledger_bytes)} of language models' answers in {self.storage.path(LEDGER)}; they "
                   "were paid for, and only you can tell whether a run will ask the same again")
        if not self.goes:
            yield f"nothing to remove in {self.storage.path('')}"
        else:
            yield (f"{size(self.bytes_freed)} freed" if removed else
                   f"{size(self.bytes_freed)} would be freed; --yes removes it")


def survey(storage: Storage, runs: Sequence[str] = ()) -> Cleaning:
    """What may go: the named runs, and all artifacts and unfinished attempts that no other run or search needs.

    Needed are the artifacts that a run's commands have used or planned, those that a search's trials have trained,
    whatever one of these was built from, and whatever a process builds right now.

    Raises:
        ArtifactError: no such run; a process is at work on one that is named; or a run is being planned right now.
    """
    found = Cleaning(storage)
    there = storage.names("runs")
    for run in runs:
        if run not in there:
            raise ArtifactError(illegal("run", run, f"one of those in {storage.path('runs')}: "
                                        f"{', '.join(there) or 'none'}"))
        if holder := leases.holder(storage, f"runs/{run}/lock.json"):
            raise ArtifactError(f"run {run}: process {holder['pid']} on {holder['host']} is at work on it; stop it "
                                "first")
        found.goes.append((f"runs/{run}", storage.size(f"runs/{run}"), "named"))
    needs = {f"run {name}": _of_run(storage, name) for name in there if name not in runs}
    needs |= {f"search {name}": {file.removesuffix(".json") for file in storage.names(f"tune/{name}/{TRAINED}")}
              for name in storage.names("tune")}
    stages = {fingerprint: stage for stage in storage.names("artifacts") if stage.isidentifier()
              for fingerprint in storage.names(f"artifacts/{stage}") if is_fingerprint(fingerprint)}
    keys: dict[str, set[str]] = {}
    closed = {who: _with_inputs(storage, needed, stages, keys) for who, needed in needs.items()}
    for fingerprint, stage in stages.items():
        needed_by = [who for who, needed in closed.items() if fingerprint in needed]
        _place(found, f"artifacts/{stage}/{fingerprint}", needed_by)
    found.ledger_bytes = storage.size(LEDGER)
    return found


def remove(found: Cleaning) -> None:
    """Remove it; of an artifact the manifest first, so that nobody takes the rest for whole.

    Raises:
        LeaseTaken: a process has begun to build one meanwhile; what was removed before is gone.
    """
    storage = found.storage
    for path, _, _ in found.goes:
        if path.startswith("artifacts/"):
            lease = leases.take(storage, f"{path}/{LEASE}", path)
            try:
                for name in ("manifest.json", "key.json", "attempts"):
                    storage.delete(f"{path}/{name}")
            finally:
                lease.release()
            if storage.exists(f"{path}/key.json"):  # somebody has begun it anew
                continue
        storage.delete(path)


def _place(found: Cleaning, path: str, needed_by: list[str]) -> None:
    count = found.storage.size(path)
    holder = leases.holder(found.storage, f"{path}/{LEASE}")
    if holder is not None:
        needed_by = [*needed_by, f"process {holder['pid']} on {holder['host']}, which builds it"]
    if needed_by:
        found.stays.update(needed_by)
        found.bytes_kept += count
    else:
        finished = found.storage.exists(f"{path}/manifest.json")
        found.goes.append((path, count, "no run needs it" if finished else "unfinished, and no run needs it"))


def _of_run(storage: Storage, name: str) -> set[str]:
    """Fingerprints that its commands have used, and those that the last one planned."""
    folder = f"runs/{name}"
    holder = leases.holder(storage, f"{folder}/lock.json")
    planned: dict[str, Any] = storage.read_json(f"{folder}/{STEPS}") if storage.exists(f"{folder}/{STEPS}") else {}
    if holder is not None and holder.get("token") != planned.get("token"):
        raise ArtifactError(f"run {name}: process {holder['pid']} on {holder['host']} is just planning it; "
                            "try again in a moment")
    used = storage.read_json(f"{folder}/references.json") if storage.exists(f"{folder}/references.json") else {}
    return {*used.values(), *planned.get("steps", {}).values()}


def _with_inputs(storage: Storage, needed: Iterable[str], stages: Mapping[str, str], keys: dict[str, set[str]]
                 ) -> set[str]:
    """These and every artifact that a key of theirs names: inputs, and settings such as `train.init_from`."""
    closed: set[str] = set()
    pending = list(needed)
    while pending:
        fingerprint = pending.pop()
        if fingerprint in closed or fingerprint not in stages:
            continue
        closed.add(fingerprint)
        if fingerprint not in keys:
            path = f"artifacts/{stages[fingerprint]}/{fingerprint}/key.json"
            text = storage.read_bytes(path).decode() if storage.exists(path) else ""
            keys[fingerprint] = set(_FINGERPRINT.findall(text))
        pending.extend(keys[fingerprint])
    return closed
