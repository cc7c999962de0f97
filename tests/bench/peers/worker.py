"""The same training by one Ray Train worker: what Ray adds to the process that trains."""

from __future__ import annotations

from typing import Any

from cluster.config import ClusterConfig
from cluster.connect import connect
from pipeline.store.artifacts import Artifact, begin
from pipeline.train.config import TrainConfig
from pipeline.train.keys import key
from pipeline.train.stage import train
from tests.bench.beauty import student
from tests.bench.watch import watched

EPOCHS = 2


def ray_worker(prepared: Artifact, given: dict[str, Any]) -> dict[str, Any]:
    """Two epochs of the plain student on one worker with one thread."""
    model = student(given)
    config = TrainConfig.model_validate({
        "epochs": EPOCHS, "distill_epochs": 0, "batch_size": given["batch_size"], "optimizer": {"lr": given["lr"]},
        "validate_every_epochs": EPOCHS, "loss": given["loss"],
        "execution": {"num_workers": 1, "threads_per_worker": 1, "checkpoint_every_epochs": EPOCHS}})
    storage, stage_key = prepared.storage, key(config, model, "plain", given["seed"], prepared.fingerprint, None)
    storage.delete(stage_key.folder)
    with connect(ClusterConfig(num_cpus=2)), watched() as usage:
        trained = train(config, model, "plain", given["seed"], prepared, None, begin(storage, stage_key))
    below = {name: size for name, size in usage.by_name.items() if name.startswith("ray::")}
    workers = {name: size for name, size in below.items() if "TrainWorker" in name} or below
    return {"epoch_wall_s": trained.manifest.info["seconds"] / EPOCHS, "worker_bytes": max(workers.values()),
            "processes": usage.by_name, **usage.figures()}
