"""The artifact contract: a folder addressed by content, whose manifest is written last.

``artifacts/<stage>/<fingerprint>/attempts/<attempt>/…`` holds files, ``artifacts/<stage>/<fingerprint>/manifest.json``
names the winning attempt. The manifest is there ⇔ the artifact is whole. Attempts never share a folder, so two
processes that build the same artifact cannot mix; ``lease.json`` beside them says who is at work, and what a dead
process has begun can be taken up again.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.storage import Storage
from configs.errors import ArtifactError
from configs.files import flatten
from pipeline.store import leases
from pipeline.store.leases import Lease, LeaseTaken

SCHEMA_VERSION = 1
LEASE = "lease.json"
"""In an artifact's folder: who builds it."""
SCRATCH = "scratch"
"""In an attempt, also with a dash and more: folders that only the process that made them reads."""


@dataclass(frozen=True)
class StageKey:
    """Everything an artifact's content depends on."""

    stage: str
    version: int
    """The stage's own version constant; raised when its output changes for the same input."""
    config: Mapping[str, Any]
    """The stage's ``Config.key()``."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Input name → fingerprint."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Raw file or model name → content digest."""

    def values(self) -> dict[str, Any]:
        """The key as a JSON-ready mapping; what ``key.json`` holds."""
        return {"stage": self.stage, "version": self.version, "schema": SCHEMA_VERSION, "config": dict(self.config),
                "inputs": dict(self.inputs), "digests": dict(self.digests)}

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the canonical JSON of :meth:`values`."""
        canonical = json.dumps(self.values(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()

    @property
    def folder(self) -> str:
        """The artifact's folder below the storage root."""
        return f"artifacts/{self.stage}/{self.fingerprint}"


def is_fingerprint(name: str) -> bool:
    """Whether a setting names an artifact of the storage (16 hexadecimal digits); else it is a path."""
    return re.fullmatch(r"[0-9a-f]{16}", name) is not None


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted names of the values that differ between two ``key.json`` mappings, as ``name: old → new``."""
    a, b = ({name: repr(value) for name, value in flatten(values).items()} for values in (old, new))
    return [f"{name}: {a.get(name, 'absent')} → {b.get(name, 'absent')}" for name in sorted(a.keys() | b.keys())
            if a.get(name) != b.get(name)]


def begun_otherwise(storage: Storage, path: str, settings: Mapping[str, Any]) -> list[str]:
    """The settings that differ from those that work in this place was begun with (:func:`changed_keys`); the first call
    writes them down."""
    if storage.exists(path):
        return changed_keys(storage.read_json(path), settings)
    storage.write_json(path, dict(settings))
    return []


@dataclass(frozen=True)
class Manifest:
    """What a finished artifact says of itself."""

    stage: str
    fingerprint: str
    attempt: str
    key: dict[str, Any]
    counts: dict[str, int]
    """Row counts; stages that map rows give ``num_in``, ``num_out``, ``num_rejected``."""
    columns: dict[str, list[str]]
    """File name → its columns."""
    id_digest: str | None
    """Digest of the ordered ids of the main table."""
    info: dict[str, Any]
    """Provenance and statistics: seeds, versions, quality figures."""
    files: dict[str, int]
    """File name → size in bytes."""


@dataclass(frozen=True)
class Artifact:
    """A finished artifact, to be read. Picklable."""

    storage: Storage
    folder: str
    manifest: Manifest

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    def relative(self, name: str) -> str:
        """Path of a file below the storage root."""
        return f"{self.folder}/{name}"

    def path(self, name: str) -> str:
        """The filesystem's own path of a file or folder of the artifact."""
        return self.storage.path(self.relative(name))

    def local(self, name: str) -> Path:
        """A path on this machine (copied once per node from an object store), to be memory-mapped."""
        return self.storage.local(self.relative(name))

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        return self.storage.read_table(self.relative(name), columns)

    def read_batches(self, name: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """A table that is too large to be read at once."""
        return self.storage.read_batches(self.relative(name), columns)

    def read_rows(self, name: str, where: tuple[str, str, object], columns: list[str] | None = None) -> pa.Table:
        """See ``Storage.read_rows``."""
        return self.storage.read_rows(self.relative(name), where, columns)

    def read_json(self, name: str) -> Any:
        return self.storage.read_json(self.relative(name))


@dataclass(frozen=True)
class ArtifactDir:
    """An attempt under construction. Files go below :meth:`path`; :meth:`commit` makes the artifact."""

    storage: Storage
    key: StageKey
    attempt: str
    resumed: bool
    """Whether files of a dead owner's attempt may already be here."""
    lease: Lease | None = field(repr=False)
    """None in a worker: who has begun the attempt commits it or gives it up."""

    @property
    def folder(self) -> str:
        return f"{self.key.folder}/attempts/{self.attempt}"

    def relative(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def path(self, name: str) -> str:
        return self.storage.path(self.relative(name))

    def write_table(self, name: str, table: pa.Table, **options: Any) -> None:
        self.storage.write_table(self.relative(name), table, **options)

    def write_json(self, name: str, value: Any) -> None:
        self.storage.write_json(self.relative(name), value)

    def commit(self, counts: Mapping[str, int], columns: Mapping[str, Iterable[str]] | None = None,
               id_digest: str | None = None, info: Mapping[str, Any] | None = None) -> Artifact:
        """Write the manifest, last of all; the first attempt to do so wins.

        Raises:
            ArtifactError: ``num_in``, ``num_out`` and ``num_rejected`` are given and do not add up, or another process
                has taken the attempt over.
        """
        if {"num_in", "num_out", "num_rejected"} <= counts.keys() and (
                counts["num_in"] != counts["num_out"] + counts["num_rejected"]):
            raise ArtifactError(f"{self.key.stage}: rows are not conserved: {dict(counts)}")
        existing = find(self.storage, self.key)
        if existing is not None:
            self.release()
            return existing
        if self.lease is not None and self.lease.taken_over():
            raise ArtifactError(f"{self.key.folder}: another process has taken this work over (see lease.json there); "
                                "run the same command again: it waits for that one, or goes on")
        sizes = {file.removeprefix(self.folder + "/"): size
                 for file, size in self.storage.file_sizes(self.folder).items()}
        manifest = Manifest(self.key.stage, self.key.fingerprint, self.attempt, self.key.values(), dict(counts),
                            {k: list(v) for k, v in (columns or {}).items()}, id_digest, dict(info or {}), sizes)
        self.storage.write_json(f"{self.key.folder}/manifest.json", manifest.__dict__)
        self.release()
        return Artifact(self.storage, self.folder, manifest)

    def release(self) -> None:
        """Give the attempt up after an error, so that the next run may take it up again at once."""
        if self.lease is not None:
            self.lease.release()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lease": None}


def find(storage: Storage, key: StageKey) -> Artifact | None:
    """The finished artifact of a key, or None.

    Raises:
        ArtifactError: the manifest is there but a file is missing or has another size.
    """
    return open_artifact(storage, key.stage, key.fingerprint)


def open_artifact(storage: Storage, stage: str, fingerprint: str) -> Artifact | None:
    """The finished artifact at an address, or None. Raises ArtifactError as :func:`find` does."""
    folder = f"artifacts/{stage}/{fingerprint}"
    if not storage.exists(f"{folder}/manifest.json"):
        return None
    try:
        manifest = Manifest(**storage.read_json(f"{folder}/manifest.json"))
    except (ValueError, TypeError) as exc:
        raise ArtifactError(f"{folder}/manifest.json is damaged; delete the folder {folder} and run again") from exc
    artifact = Artifact(storage, f"{folder}/attempts/{manifest.attempt}", manifest)
    sizes = storage.file_sizes(artifact.folder)
    for name, size in manifest.files.items():
        found = sizes.get(artifact.relative(name))
        if found != size:
            raise ArtifactError(f"{artifact.relative(name)}: expected {size} bytes, found {found or 'no file'}; "
                                f"delete the folder {folder} and run again")
    return artifact


def begin(storage: Storage, key: StageKey, resume: bool = False) -> ArtifactDir:
    """A folder to build an artifact in, held until it is committed or released.

    With ``resume`` the newest unfinished attempt is taken up again; the key is part of the address, so it was begun
    with the same settings. Without it a fresh attempt starts and unfinished ones are removed.

    Raises:
        LeaseTaken: another live process builds this artifact.
    """
    return _open(storage, key, resume, leases.take(storage, _lease(key), key.folder))


def find_or_begin(storage: Storage, key: StageKey, resume: bool, tell: Callable[[LeaseTaken], None]
                  ) -> Artifact | ArtifactDir:
    """The finished artifact, or else a folder to build it in; while another process builds it, its end is awaited.

    ``tell`` is called before such a wait.
    """
    lease = leases.take_or_wait(storage, _lease(key), key.folder, tell, lambda: find(storage, key) is not None)
    if lease is not None:
        return _open(storage, key, resume, lease)
    found = find(storage, key)
    assert found is not None
    return found


def _open(storage: Storage, key: StageKey, resume: bool, lease: Lease) -> ArtifactDir:
    """Under the lease, every attempt but the finished one is a dead process's."""
    try:
        storage.make_dir(f"{key.folder}/attempts")
        if not storage.exists(f"{key.folder}/key.json"):
            storage.write_json(f"{key.folder}/key.json", key.values())
        winner = _winner(storage, key)
        dead = [attempt for attempt in storage.names(f"{key.folder}/attempts") if attempt != winner]
        if resume and dead:
            attempt, resumed = dead[-1], True
        else:
            attempt, resumed = _new_attempt(), False
            for name in dead:
                storage.delete(f"{key.folder}/attempts/{name}")
        storage.make_dir(f"{key.folder}/attempts/{attempt}")
    except BaseException:
        lease.release()
        raise
    return ArtifactDir(storage, key, attempt, resumed, lease)


def begun_at(attempt: str) -> float:
    """When an attempt began, in seconds since 1970."""
    return int(attempt.partition("-")[0]) / 1000


def _new_attempt() -> str:
    """Later ones sort behind earlier ones."""
    return f"{int(time.time() * 1000):013d}-{uuid.uuid4().hex[:6]}"


def _lease(key: StageKey) -> str:
    return f"{key.folder}/{LEASE}"


def _winner(storage: Storage, key: StageKey) -> str | None:
    """The attempt a manifest names: another process may have finished it since this one looked."""
    path = f"{key.folder}/manifest.json"
    return str(storage.read_json(path)["attempt"]) if storage.exists(path) else None


def digest_ids(ids: pa.Array | pa.ChunkedArray | np.ndarray | Iterable[str]) -> str:
    """Digest of ordered ids: integer arrays by their bytes, strings with their lengths."""
    hasher = hashlib.blake2b(digest_size=8)
    if isinstance(ids, (pa.Array, pa.ChunkedArray)) and pa.types.is_integer(ids.type):
        ids = ids.to_numpy()
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "iu":
        hasher.update(np.ascontiguousarray(ids.astype(np.int64)).tobytes())
        return hasher.hexdigest()
    values = ids.to_pylist() if isinstance(ids, (pa.Array, pa.ChunkedArray)) else ids
    for value in values:
        data = str(value).encode()
        hasher.update(len(data).to_bytes(4, "little") + data)
    return hasher.hexdigest()
