"""Training state on disk: safetensors for tensors, JSON for counters, a content digest for every file.

Order, masks and dropout are functions of counters (``seeds.py``), so epoch and step are the state of the sampler and of
every random number: a resumed run goes on bit for bit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from cluster.faults import cause
from configs.errors import ArtifactError, DataError, StorageError, TrainingError
from pipeline.store.digests import digest_file
from pipeline.store.tensors import save_file

STATE = "state.json"
DIGESTS = "digests.json"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
BEST = "best.safetensors"
METRICS = "metrics.jsonl"


@dataclass
class Progress:
    """Where training stands. Epochs are counted from 1 in everything that is shown or stored."""

    fingerprint: str
    """Of the artifact under construction: a checkpoint of other settings is refused."""
    epochs: int = 0
    """Finished epochs."""
    steps: int = 0
    """Finished optimizer steps."""
    finished: bool = False
    stopped_early: bool = False
    best_epoch: int | None = None
    best_metrics: dict[str, float] | None = None
    reference: float | None = None
    """What the validation metric must exceed to reset the patience."""
    stale: int = 0
    """Validated epochs since it last did, after the last switch."""
    seconds: float = 0.0
    """Spent training and validating, over all resumptions."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One record per validated epoch: epoch, phase, metrics."""
    world_sizes: list[int] = field(default_factory=list)
    """Workers of the epochs so far; a number follows where it changed."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, read."""

    progress: Progress
    model: dict[str, Tensor]
    """State of the training module: served and teacher-side parameters."""
    optimizer: dict[str, Tensor]
    best: dict[str, Tensor] | None
    """Served parameters of the best epoch so far."""
    metrics: bytes
    """``metrics.jsonl`` as it was."""


@dataclass(frozen=True)
class Outcome:
    """What a finished training leaves, without what only going on would need."""

    progress: Progress
    best: dict[str, Tensor]
    """Served parameters of the chosen epoch."""
    metrics: bytes


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Fill an empty folder; the digests come last.

    Raises:
        StorageError: the disk is full or cannot be written; the folder is removed.
    """
    try:
        save_file(_plain(checkpoint.model), folder / MODEL)
        save_file(_plain(checkpoint.optimizer), folder / OPTIMIZER)
        if checkpoint.best is not None:
            save_file(_plain(checkpoint.best), folder / BEST)
        (folder / METRICS).write_bytes(checkpoint.metrics)
        (folder / STATE).write_text(json.dumps(asdict(checkpoint.progress), indent=1))
        digests = {path.name: digest_file(path) for path in sorted(folder.iterdir())}
        (folder / DIGESTS).write_text(json.dumps(digests, indent=1))
    except Exception as exc:  # safetensors wraps the operating system's errors in its own
        shutil.rmtree(folder, ignore_errors=True)
        needed = sum(t.numel() * t.element_size() for part in (checkpoint.model, checkpoint.optimizer,
                                                               checkpoint.best or {}) for t in part.values())
        raise StorageError(f"checkpoint after epoch {checkpoint.progress.epochs}: cannot write {folder}, "
                           f"{needed / 2**20:.0f} MiB: {cause(exc, str(folder))}; the last good checkpoint is "
                           "untouched: mend that and run the same command again") from exc


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files; None if every one is as it was written."""
    try:
        digests = json.loads((folder / DIGESTS).read_text())
    except (OSError, ValueError) as exc:
        return f"{DIGESTS}: {exc}"
    for name, digest in digests.items():
        try:
            if digest_file(folder / name) != digest:
                return f"{name} is not what was written"
        except DataError as exc:
            return str(exc)
    return None


def read_checkpoint(folder: Path, fingerprint: str) -> Checkpoint:
    """Read a checkpoint that :func:`damage` found whole.

    Raises:
        ArtifactError: it belongs to other settings.
    """
    progress = _progress(folder, fingerprint)
    best = load_file(folder / BEST) if (folder / BEST).exists() else None
    return Checkpoint(progress, load_file(folder / MODEL), load_file(folder / OPTIMIZER), best,
                      (folder / METRICS).read_bytes())


def read_outcome(folder: Path, fingerprint: str) -> Outcome:
    """The same of the last checkpoint: the last epoch is always validated, so there is a chosen one.

    Raises:
        TrainingError: the training has not come to its end.
        ArtifactError: as :func:`read_checkpoint`.
    """
    progress = _progress(folder, fingerprint)
    if not progress.finished:
        raise TrainingError(f"the training stopped after epoch {progress.epochs}, before its end; its last checkpoint "
                            f"is kept in {folder}: run the same command again")
    return Outcome(progress, load_file(folder / BEST), (folder / METRICS).read_bytes())


def _progress(folder: Path, fingerprint: str) -> Progress:
    progress = Progress(**json.loads((folder / STATE).read_text()))
    if progress.fingerprint != fingerprint:
        raise ArtifactError(f"checkpoint {folder} belongs to {progress.fingerprint}, not to {fingerprint}; an "
                            "unfinished training is never resumed with other settings: delete that folder")
    return progress


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu").contiguous() for name, value in tensors.items()}

