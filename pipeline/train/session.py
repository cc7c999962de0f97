"""Where a training loop runs: its ranks, its device and its checkpoints. The loop itself knows no Ray.

Legend: N values.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.fs as pafs
import torch
import torch.distributed as dist

from cluster.storage import Storage
from models.parallel import world_size
from pipeline.train.checkpoint import damage

KEPT_CHECKPOINTS = 2
logger = logging.getLogger(__name__)


class Session(Protocol):
    """What :func:`pipeline.train.loop.train_loop` asks of its surroundings."""

    rank: int
    world_size: int
    device: torch.device

    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole on every rank, as a local folder."""
        ...

    def new_folder(self) -> Path:
        """An empty folder to write the next checkpoint in."""
        ...

    def report(self, metrics: dict[str, Any], checkpoint: Path | None) -> None:
        """Announce an epoch; every rank calls it. Rank 0 hands over a checkpoint, which is moved away."""
        ...


class LocalSession:
    """One worker in this very process; checkpoints lie in a folder of the storage."""

    rank = 0
    world_size = 1

    def __init__(self, storage: Storage, folder: str, device: torch.device,
                 on_report: Callable[[dict[str, Any]], None] | None = None) -> None:
        """
        Args:
            storage: holds the checkpoints.
            folder: their folder, relative to the storage root.
            device: to train on.
            on_report: called with the metrics of every epoch.
        """
        self.device = device
        self._storage = storage
        self._folder = folder
        self._on_report = on_report
        self._scratch = tempfile.TemporaryDirectory()

    def latest_checkpoint(self) -> Path | None:
        """As in :class:`Session`; damaged checkpoints are removed, so that they never outlive newer ones."""
        for name in reversed(self._stored()):
            relative = f"{self._folder}/{name}"
            folder = first_whole([(name, self._fetch(relative))])
            if folder is not None:
                return folder
            self._storage.delete(relative)
        return None

    def new_folder(self) -> Path:
        if not self._storage.is_local:
            return Path(tempfile.mkdtemp(dir=self._scratch.name))
        parent = Path(self._storage.path(self._folder))
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="unfinished-", dir=parent))

    def report(self, metrics: dict[str, Any], checkpoint: Path | None) -> None:
        if checkpoint is not None:
            self._store(checkpoint, f"{self._folder}/checkpoint-{metrics['epoch']:06d}")
        if self._on_report is not None:
            self._on_report(metrics)

    def _store(self, checkpoint: Path, relative: str) -> None:
        self._storage.delete(relative)
        if self._storage.is_local:
            os.replace(checkpoint, self._storage.path(relative))
        else:
            self._storage.make_dir(relative)
            with self._storage.writing(relative) as path:
                pafs.copy_files(str(checkpoint), path, destination_filesystem=self._storage.filesystem)
            shutil.rmtree(checkpoint)
        unfinished = set(self._storage.names(self._folder)) - set(self._stored())
        for name in unfinished | set(self._stored()[:-KEPT_CHECKPOINTS]):
            self._storage.delete(f"{self._folder}/{name}")

    def _fetch(self, relative: str) -> Path:
        """A checkpoint as a local folder; unlike input files it is never cached: its name may come again."""
        if self._storage.is_local:
            return Path(self._storage.path(relative))
        folder = self.new_folder()
        with self._storage.reading(relative) as path:
            pafs.copy_files(path, str(folder), source_filesystem=self._storage.reader)
        return folder

    def _stored(self) -> list[str]:
        """Oldest first."""
        return [n for n in self._storage.names(self._folder) if n.startswith("checkpoint-")]


def first_whole(newest_first: Iterable[tuple[str, Path]]) -> Path | None:
    """The first checkpoint that is whole on every rank; the damaged ones before it are named in a warning.

    All ranks must pass the same checkpoints in the same order, as (name, local folder).
    """
    for name, folder in newest_first:
        problem = damage(folder)
        if all_ranks(problem is None):
            return folder
        logger.warning("checkpoint %s is damaged (%s); going on from the one before it", name,
                       problem or "seen by another worker")
    return None


def all_ranks(value: bool) -> bool:
    """Whether it holds on every rank."""
    return int(sum_ranks(np.array([not value]))[0]) == 0


def sum_ranks(values_N: np.ndarray) -> np.ndarray:
    """Element-wise int64 sum over the ranks."""
    values = torch.from_numpy(values_N.astype(np.int64))
    if world_size() > 1:
        # nccl moves GPU memory only
        values = values.to("cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(values)
    return values.cpu().numpy()
