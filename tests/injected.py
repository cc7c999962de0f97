"""Faults that travel to Ray workers: train loops that are importable by name and break on purpose."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from models.sequences import Batch
from pipeline.train import ray_session
from pipeline.train.learner import Learner

MARKER = "killed"
"""File below the storage root that says that the fault has happened; it holds the variable OWN of the worker."""
OWN = "A_STAGE_S_OWN"
RESUMED = "resumed"
"""File below the storage root: finished optimizer steps when training went on."""
RAISED = "raised"
"""File below the storage root: Unix time at which a rank raised."""
KILL_STEP = 13
RAISE_STEP = 7


def kill_second_rank_once(config: dict[Any, Any]) -> None:
    """The worker loop, with a SIGKILL of rank 1 in the middle of an epoch, the first time round."""
    marker, resumed = (Path(config["storage"].path(name)) for name in (MARKER, RESUMED))
    original = Learner.gradients

    def gradients(learner: Learner, batch: Batch, alpha: float, epoch: int, step: int, rank: int, *rest: Any
                  ) -> dict[str, float]:
        values = original(learner, batch, alpha, epoch, step, rank, *rest)
        if rank == 1:
            if marker.exists() and not resumed.exists():
                resumed.write_text(str(step))
            if step == KILL_STEP and not marker.exists():
                marker.write_text(os.environ.get(OWN, ""))
                os.kill(os.getpid(), signal.SIGKILL)
        return values

    Learner.gradients = gradients  # type: ignore[assignment, method-assign]
    ray_session.worker_loop(config)


def raise_in_second_rank(config: dict[Any, Any]) -> None:
    """The worker loop, in which rank 1 raises in the middle of an epoch while rank 0 waits for its gradients."""
    raised = Path(config["storage"].path(RAISED))
    original = Learner.gradients

    def gradients(learner: Learner, batch: Batch, alpha: float, epoch: int, step: int, rank: int, *rest: Any
                  ) -> dict[str, float]:
        if rank == 1 and step == RAISE_STEP:
            raised.write_text(str(time.time()))
            raise ValueError("a row that no rank can use")
        return original(learner, batch, alpha, epoch, step, rank, *rest)

    Learner.gradients = gradients  # type: ignore[assignment, method-assign]
    ray_session.worker_loop(config)
