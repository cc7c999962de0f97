"""Epochs until a validation metric is reached, in this process on one thread."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from pipeline.store.artifacts import Artifact, begin
from pipeline.train.config import TrainConfig
from pipeline.train.keys import key
from pipeline.train.stage import train
from tests.bench.beauty import student

MOST_EPOCHS = 60
METRIC = "ndcg@10"


class _Reached(Exception):
    """Ends the training."""


def epochs_to_reach(prepared: Artifact, given: dict[str, Any], goal: float) -> dict[str, Any]:
    """Train the plain student until NDCG@10 on all validation users is at least ``goal``.

    CPU-seconds are those of the whole process, validation after every epoch included.
    """
    model = student(given)
    config = TrainConfig.model_validate({
        "epochs": MOST_EPOCHS, "distill_epochs": 0, "batch_size": given["batch_size"], "optimizer": {"lr": given["lr"]},
        "validation_users": None, "loss": given["loss"], "execution": {
            "num_workers": 0, "threads_per_worker": 1, "checkpoint_every_epochs": MOST_EPOCHS}})
    storage, stage_key = prepared.storage, key(config, model, "plain", given["seed"], prepared.fingerprint, None)
    storage.delete(stage_key.folder)
    curve: list[float] = []

    def watch(record: dict[str, Any]) -> None:
        curve.append(record[METRIC])
        if curve[-1] >= goal:
            raise _Reached

    started = time.process_time()
    with contextlib.suppress(_Reached):
        train(config, model, "plain", given["seed"], prepared, None, begin(storage, stage_key), on_epoch=watch)
    return {"reached": curve[-1] >= goal, "epochs": len(curve), "cpu_s": time.process_time() - started, "curve": curve}
