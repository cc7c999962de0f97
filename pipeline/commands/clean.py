"""What of a storage no run and no search needs, how much it takes, and its removal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.storage import Storage
from configs.errors import ArtifactError, illegal
from pipeline.commands.runs import planned
from pipeline.plan import NEEDED, TRAINED
from pipeline.store import leases
from pipeline.store.artifacts import LEASE, SCRATCH, is_fingerprint
from pipeline.work.text import size, table

LEDGER = "ledger"
_FINGERPRINT = re.compile(r'"([0-9a-f]{16})"')
_PARTS = ("manifest.json", "key.json", "attempts")
"""What an artifact's folder holds, in the order in which it goes: without its manifest it is nobody's artifact."""
_TRIALS = "ray"
"""In a search's folder: what Ray keeps of its trials, there before the first begins."""
_SCRATCH = re.compile(rf"(artifacts/[^/]+/[^/]+/attempts/[^/]+/{SCRATCH}(?:-[^/]+)?)/")


@dataclass
class Cleaning:
    """What would go, and what stays."""

    storage: Storage
    runs: Sequence[str] = ()
    """Those that were named."""
    goes: list[tuple[str, int, str]] = field(default_factory=list)
    """Path below the root, bytes, why."""
    stays: Counter[str] = field(default_factory=Counter)
    """Whoever needs it → artifacts; one that several need counts for each."""
    bytes_kept: int = 0
    ledger_bytes: int = 0

    def lines(self, removed: bool) -> Iterator[str]:
        """For a person."""
        if self.goes:
            yield table(("path", "size", "why"), [(path, size(count), why) for path, count, why in self.goes])
        needed = ", ".join(f"{who} ({count})" for who, count in sorted(self.stays.items()))
        yield f"kept: {size(self.bytes_kept)} of artifacts, needed by {needed}" if needed else "kept: no artifact"
        if self.ledger_bytes:
            yield (f"kept: {size(self.ledger_bytes)} of language models' answers in {self.storage.path(LEDGER)}; they "
                   "were paid for, and only you can tell whether a run will ask the same again")
        freed = size(sum(count for _, count, _ in self.goes))
        if not self.goes:
            yield f"nothing to remove in {self.storage.path('')}"
        else:
            yield f"{freed} freed" if removed else f"{freed} would be freed; --yes removes it"


def survey(storage: Storage, runs: Sequence[str] = ()) -> Cleaning:
    """What may go: the named runs, all artifacts and unfinished attempts that nothing needs, and of those that are
    needed what a killed process has left for itself alone.

    Needed are, for every other run, what its commands have used or planned under the settings that they had last; what
    a search's trials have trained; what a process builds right now; and whatever one of these is built from.

    Raises:
        ArtifactError: no such run; a process is at work on one that is named; a run is being planned right now, a
            search is about to begin its first trial, or one of them was begun by a version that did not write down what
            it needs.
    """
    found = Cleaning(storage, runs)
    there = storage.names("runs")
    for run in runs:
        if run not in there:
            raise ArtifactError(illegal("run", run, f"one of those in {storage.path('runs')}: "
                                        f"{', '.join(there) or 'none'}"))
        if holder := leases.holder(storage, f"runs/{run}/lock.json"):
            raise ArtifactError(f"run {run}: process {holder['pid']} on {holder['host']} is at work on it; stop it "
                                "first")
        found.goes.append((f"runs/{run}", storage.size(f"runs/{run}"), "named"))
    stages = _stages(storage)
    needs = _needs(storage, stages, runs, {})
    for fingerprint, stage in stages.items():
        path = f"artifacts/{stage}/{fingerprint}"
        needed_by = [who for who, needed in needs.items() if fingerprint in needed]
        sizes = storage.file_sizes(path)
        count = sum(sizes.values())
        if needed_by:
            left = _left(storage, path, sizes)
            found.goes += [(folder, freed, "left by a killed process") for folder, freed in left.items()]
            found.stays.update(needed_by)
            found.bytes_kept += count - left.total()
        elif any(storage.exists(f"{path}/{part}") for part in _PARTS):
            finished = storage.exists(f"{path}/manifest.json")
            found.goes.append((path, count, "no run needs it" if finished else "unfinished, and no run needs it"))
    found.ledger_bytes = storage.size(LEDGER)
    return found


def remove(found: Cleaning) -> None:
    """Remove it. Before each artifact, whoever has come meanwhile is asked whether it is needed now. On a local disk
    its folder stays, empty but for the file that guards its lease: somebody may be waiting for that.

    Raises:
        ArtifactError: as :func:`survey` does, or a process has begun to build one; what went before that is gone.
    """
    storage = found.storage
    for path, _, _ in found.goes:
        if path.startswith("runs/"):
            lease = leases.take(storage, f"{path}/lock.json", path)
            try:
                for name in storage.names(path):
                    if not name.startswith("lock.json"):
                        storage.delete(f"{path}/{name}")
            finally:
                lease.release()
            if not storage.exists(f"{path}/lock.json"):  # nobody has begun it anew
                storage.delete(path)
    kept, keys = [], dict[str, set[str]]()
    for entry in found.goes:
        kind, *address = entry[0].split("/")
        if kind != "artifacts":
            continue
        stage, fingerprint, *inside = address
        path = f"{kind}/{stage}/{fingerprint}"
        if not inside and any(fingerprint in needed for needed in _needs(storage, _stages(storage), (), keys).values()):
            kept.append(entry)
            continue
        lease = leases.take(storage, f"{path}/{LEASE}", path)
        try:
            for part in ["/".join(inside)] if inside else _PARTS:
                storage.delete(f"{path}/{part}")
        finally:
            lease.release()
    found.goes = [entry for entry in found.goes if entry not in kept]


def _left(storage: Storage, path: str, sizes: Mapping[str, int]) -> Counter[str]:
    """Folder → bytes of what only a process that has ended would have read, in an artifact that is not finished.

    Args:
        sizes: of all files below ``path``.
    """
    left = Counter[str]()
    for file, count in sizes.items():
        if found := _SCRATCH.match(file):
            left[found[1]] += count
    needed = f"{path}/manifest.json" in sizes or left and leases.holder(storage, f"{path}/{LEASE}")
    return Counter() if needed else left


def _stages(storage: Storage) -> dict[str, str]:
    """Fingerprint → stage, of every artifact there is."""
    return {fingerprint: stage for stage in storage.names("artifacts") if stage.isidentifier()
            for fingerprint in storage.names(f"artifacts/{stage}") if is_fingerprint(fingerprint)}


def _needs(storage: Storage, stages: Mapping[str, str], without: Sequence[str], keys: dict[str, set[str]]
           ) -> dict[str, set[str]]:
    """Whoever needs artifacts → their fingerprints, with all that they are built from.

    Args:
        without: runs whose needs do not count.
        keys: what the keys that were read name, by artifact; a key never changes, so it grows and is read once.
    """
    needs: dict[str, set[str]] = {}
    for name in storage.names("runs"):
        if name not in without and (storage.exists(f"runs/{name}/config.json")
                                    or leases.holder(storage, f"runs/{name}/lock.json")):  # one that is just begun
            needs[f"run {name}"] = _of_run(storage, name)
    for name in storage.names("tune"):
        needs[f"search {name}"] = _of_search(storage, name)
    for fingerprint, stage in stages.items():
        if holder := leases.holder(storage, f"artifacts/{stage}/{fingerprint}/{LEASE}"):
            needs.setdefault(f"process {holder['pid']} on {holder['host']}", set()).add(fingerprint)
    return {who: _with_inputs(storage, needed, stages, keys) for who, needed in needs.items()}


def _of_run(storage: Storage, name: str) -> set[str]:
    """Fingerprints that its commands have used or planned."""
    references = f"runs/{name}/references.json"
    used = storage.read_json(references).values() if storage.exists(references) else ()
    plan, _ = planned(storage, name)
    return {*used, *(fingerprint for needed in plan["needed"].values() for fingerprint in needed)}


def _of_search(storage: Storage, name: str) -> set[str]:
    """Fingerprints of its trials and of what they train on."""
    folder = f"tune/{name}"
    given = set(storage.read_json(f"{folder}/{NEEDED}")) if storage.exists(f"{folder}/{NEEDED}") else set()
    if not storage.exists(f"{folder}/{_TRIALS}") or storage.exists(f"{folder}/{TRAINED}"):
        return given | {file.removesuffix(".json") for file in storage.names(f"{folder}/{TRAINED}")}
    if holder := leases.holder(storage, f"{folder}/lock.json"):
        raise ArtifactError(f"search {name}: process {holder['pid']} on {holder['host']} is about to begin its first "
                            "trial; try again when it has")
    raise ArtifactError(f"search {name}: there is no {TRAINED}/ in {storage.path(folder)}, so nobody knows what it "
                        "needs; the command that began it writes it, or delete the folder")


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
        path = f"artifacts/{stages[fingerprint]}/{fingerprint}/key.json"
        if fingerprint not in keys and storage.exists(path):  # one that is just begun has none yet
            keys[fingerprint] = set(_FINGERPRINT.findall(storage.read_bytes(path).decode()))
        pending.extend(keys.get(fingerprint, ()))
    return closed
