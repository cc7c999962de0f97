"""What each node of the cluster has, and whether it sees what this process sees: asked before work starts."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from cluster.machine import memory_bytes
from cluster.storage import Storage
from configs.errors import ConfigError, MentorecError

PACKAGES: Final = ("ray", "torch", "numpy", "pyarrow", "polars", "vllm", "sentence-transformers")
_ANSWER_S: Final = 120.0
"""A node that has said nothing for so long is told of; the first task of a node also unpacks the code there."""


@dataclass(frozen=True)
class Facts:
    """What a node says of itself."""

    host: str
    memory_bytes: int
    shm_bytes: int | None
    """Free in ``/dev/shm``; None: there is none."""
    disk_bytes: int
    """Free where temporary files go."""
    versions: dict[str, str]
    """``python``, and of `PACKAGES` those that are installed."""
    storage: str | None
    """Why it does not see or cannot write the storage root; None where all is well."""
    lacks: list[str] = field(default_factory=list)
    """Folders of this process that are not there."""


@dataclass(frozen=True)
class Node:
    """A living node."""

    address: str
    cpus: float
    gpus: float
    facts: Facts | None
    error: str = ""
    """Why there are no facts."""
    alive: bool = True
    """False: it has left while it was asked."""

    @property
    def works(self) -> bool:
        """Whether work is placed there; a head may have neither CPUs nor GPUs to give."""
        return self.cpus > 0 or self.gpus > 0


class OneView:
    """Where the cluster has several nodes, all must see the storage root and some folders as this process does."""

    def __init__(self, storage: Storage, folders: Sequence[str] = ()) -> None:
        """
        Args:
            folders: of this process, that the work reads.
        """
        self._storage, self._folders = storage, folders
        self._asked: set[str] = set()

    def require(self) -> None:
        """Ask the nodes that were not asked before; Ray must be initialised.

        Raises:
            ConfigError: one has another view; it is named.
            StorageError: this process cannot write the storage root.
        """
        alive = _alive()
        new = [node for node in alive if node["NodeID"] not in self._asked]
        if len(alive) < 2 or not new:
            return
        for node in look(self._storage, self._folders, new):
            self._check(node)
        self._asked |= {node["NodeID"] for node in new}

    def _check(self, node: Node) -> None:
        if not node.works or not node.alive:
            return
        if node.facts is None:
            raise ConfigError(f"node {node.address} cannot do this run's work: {node.error}; every node needs "
                              "mentorec's packages (the image of cluster/Dockerfile has them)")
        who, facts = f"node {node.address} ({node.facts.host})", node.facts
        if facts.storage is not None:
            raise ConfigError(f"storage.uri: {who} does not share {self._storage.path('')}: {facts.storage}; give a "
                              "URI such as s3://bucket/prefix with credentials on every node, or a folder that all "
                              "nodes mount")
        if facts.lacks:
            raise ConfigError(f"{who} does not have {', '.join(facts.lacks)}; put it at that path of every node; a "
                              "model may also be a hub's or a package's")


def look(storage: Storage, folders: Sequence[str] = (), nodes: Sequence[Mapping[str, Any]] | None = None
         ) -> list[Node]:
    """Ask every living node; Ray must be initialised. A file is left in the storage root while they are asked.

    Args:
        nodes: of ``ray.nodes()``; None: all that live.

    Raises:
        StorageError: this process cannot write the storage root.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there_before = storage.exists("")
    probe = f".nodes-{uuid.uuid4().hex}"
    storage.write_bytes(probe, probe.encode())
    try:
        ask = ray.remote(num_cpus=0, max_retries=0)(facts_of_this_node)
        asked = [(node, ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                                    ).remote(storage, probe, node["NodeID"], list(folders)))
                 for node in (_alive() if nodes is None else nodes)]
        _, silent = ray.wait([answer for _, answer in asked], num_returns=len(asked), timeout=_ANSWER_S)
        for answer in silent:
            ray.cancel(answer, force=True)
        alive = {node["NodeID"] for node in _alive()}
        return [_seen_by_us(storage, probe, _node(node, None if answer in silent else answer, node["NodeID"] in alive),
                            node["NodeID"]) for node, answer in asked]
    finally:
        for name in storage.names(""):
            if name.startswith(probe):
                storage.delete(name)
        if not there_before and not storage.names(""):
            storage.delete("")


def facts_of_this_node(storage: Storage, probe: str, node_id: str, folders: Sequence[str]) -> Facts:
    """Asked on a node: what it has, whether it reads the driver's probe, and a file beside it in answer."""
    shm = Path("/dev/shm")
    return Facts(socket.gethostname(), memory_bytes(), shutil.disk_usage(shm).free if shm.is_dir() else None,
                 shutil.disk_usage(tempfile.gettempdir()).free, dict(versions()), _trouble(storage, probe, node_id),
                 [folder for folder in folders if not os.path.isdir(folder)])


def _trouble(storage: Storage, probe: str, node_id: str) -> str | None:
    try:
        if not storage.exists(probe) or storage.read_bytes(probe) != probe.encode():
            return "it does not see a file that was just written there"
        storage.write_bytes(f"{probe}-{node_id}", b"")
    except (MentorecError, OSError) as exc:
        return " ".join(str(exc).split())[:200]
    return None


def _seen_by_us(storage: Storage, probe: str, node: Node, node_id: str) -> Node:
    """A node that wrote, where we see nothing, has another folder of that name."""
    if node.facts is None or node.facts.storage is not None or storage.exists(f"{probe}-{node_id}"):
        return node
    return replace(node, facts=replace(node.facts, storage="what it writes there is not seen here"))


def _node(node: Mapping[str, Any], answer: Any, alive: bool) -> Node:
    import ray

    resources = node["Resources"]
    address, cpus, gpus = node["NodeManagerAddress"], resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    if answer is None:
        return Node(address, cpus, gpus, None, f"no answer within {_ANSWER_S:.0f} s", alive)
    try:
        return Node(address, cpus, gpus, ray.get(answer), alive=alive)
    except ray.exceptions.RayError as exc:
        return Node(address, cpus, gpus, None, str(exc).strip().splitlines()[-1][:200], alive)


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def versions() -> Iterator[tuple[str, str]]:
    """``python`` and those of `PACKAGES` that are installed here."""
    yield "python", platform.python_version()
    for package in PACKAGES:
        if (found := installed(package)) is not None:
            yield package, found


def installed(distribution: str) -> str | None:
    """The version of a package; None: it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
