"""Training under faults: killed, damaged, diverged, tiny. What it ends with is what an undisturbed run ends with."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import ArtifactError, DataError, StorageError, TrainingError
from models.config import BERT4RecConfig, ModelConfig, SASRecConfig
from models.sequences import Batch, Sequences
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact
from pipeline.store.digests import digest_file
from pipeline.train import checkpoint as checkpoints
from pipeline.train import loop
from pipeline.train.config import EarlyStoppingConfig, OptimizerConfig, TrainConfig
from pipeline.train.data import TrainingRows
from pipeline.train.execution_config import TrainExecution
from pipeline.train.export import load_model
from pipeline.train.keys import key
from pipeline.train.learner import Learner
from tests.builders import make_prepared, make_targets, train_arm
from tests.tools import Started

SASREC = SASRecConfig(hidden_dim=16, max_length=8)
BERT4REC = BERT4RecConfig(hidden_dim=16, max_length=8)
HERE = TrainExecution(num_workers=0, threads_per_worker=1, log_every_steps=1)
CONFIG = TrainConfig(epochs=5, distill_epochs=2, batch_size=16, beta=True, gradient_clip=1.0,
                     early_stopping=EarlyStoppingConfig(patience_epochs=0), execution=HERE)
LONGER = CONFIG.model_copy(update={"epochs": 40})


def train_here(root: Path, config: TrainConfig = CONFIG, model: ModelConfig = SASREC,
               epochs: list[int] | None = None) -> Artifact:
    """Train or find; the numbers of the epochs that are trained go to ``epochs``."""
    storage = Storage.from_config(StorageConfig(uri=str(root)))
    prepared = make_prepared(storage)
    return train_arm(storage, prepared, make_targets(storage, prepared), config, model,
                     on_epoch=None if epochs is None else noted(epochs))


def noted(epochs: list[int]) -> Callable[[dict[str, Any]], None]:
    """Notes the number of each epoch."""
    return lambda record: epochs.append(record["epoch"])


def train_and_die(root: Path, model: ModelConfig, step: int) -> None:
    """A process that is killed between two optimizer steps."""
    torch.set_num_threads(1)
    original = Learner.gradients

    def gradients(learner: Learner, batch: Batch, alpha: float, epoch: int, now: int, *rest: Any) -> dict[str, float]:
        values = original(learner, batch, alpha, epoch, now, *rest)
        if now == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return values

    Learner.gradients = gradients  # type: ignore[assignment, method-assign]
    train_here(root, model=model)


def weights(artifact: Artifact) -> bytes:
    return artifact.local("model/model.safetensors").read_bytes()


@pytest.mark.parametrize(("model", "step"), [(SASREC, 7), (BERT4REC, 13)])
def test_killed_in_the_middle_of_an_epoch(tmp_path: Path, model: ModelConfig, step: int, started: Started) -> None:
    whole = train_here(tmp_path / "whole", model=model)
    victim = multiprocessing.get_context("spawn").Process(target=train_and_die, args=(tmp_path / "killed", model, step))
    victim.start()
    started(victim).join(timeout=120)
    assert victim.exitcode == -signal.SIGKILL
    epochs: list[int] = []
    killed = train_here(tmp_path / "killed", model=model, epochs=epochs)
    assert 1 < epochs[0] <= CONFIG.epochs, "it went on from a checkpoint"
    assert weights(whole) == weights(killed)
    assert whole.local("metrics.jsonl").read_bytes() == killed.local("metrics.jsonl").read_bytes()
    assert whole.manifest.info["history"] == killed.manifest.info["history"]
    assert len(killed.storage.names(f"artifacts/train/{killed.fingerprint}/attempts")) == 1


def train_on_ray(root: Path) -> None:
    """A driver with a Ray of its own."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    train_here(root, LONGER.model_copy(update={"execution": HERE.model_copy(update={"num_workers": 1})}))
    ray.shutdown()


def epochs_in(root: Path) -> int:
    """Epochs that a running training has logged."""
    logs = list(root.glob("artifacts/train/*/attempts/*/metrics.jsonl"))
    return sum(log.read_text().count('"kind": "epoch"') for log in logs)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_driver_of_ray_workers(tmp_path: Path, started: Started) -> None:
    whole = train_here(tmp_path / "whole", LONGER)
    processes = multiprocessing.get_context("spawn")
    victim = processes.Process(target=train_on_ray, args=(tmp_path / "killed",))
    victim.start()
    started(victim)
    deadline = time.monotonic() + 400
    while victim.is_alive() and epochs_in(tmp_path / "killed") < 8:
        assert time.monotonic() < deadline, "training did not get under way"
        time.sleep(0.1)
    victim.kill()
    victim.join()
    assert 8 <= epochs_in(tmp_path / "killed") < LONGER.epochs
    again = processes.Process(target=train_on_ray, args=(tmp_path / "killed",))
    again.start()
    started(again)
    fewest, deadline = LONGER.epochs, time.monotonic() + 400
    while again.is_alive():
        assert time.monotonic() < deadline, "it did not end in time"
        fewest = min(fewest, epochs_in(tmp_path / "killed"))
        time.sleep(0.05)
    again.join()
    assert fewest >= 6, "it went on from one of the last checkpoints"
    assert again.exitcode == 0
    killed = train_here(tmp_path / "killed", LONGER)  # finds what the second driver has built
    assert weights(killed) == weights(whole)
    assert killed.local("metrics.jsonl").read_bytes() == whole.local("metrics.jsonl").read_bytes()
    assert len(killed.storage.names(f"artifacts/train/{killed.fingerprint}/attempts")) == 1


class Interrupted(Exception):
    pass


def stop_after(epoch: int) -> Any:
    def stop(record: dict[str, Any]) -> None:
        if record["epoch"] == epoch:
            raise Interrupted

    return stop


def interrupted(storage: Storage, epoch: int) -> tuple[Artifact, Artifact, Path]:
    """Prepared data, targets, and the checkpoint folder of a run that was stopped after an epoch."""
    prepared = make_prepared(storage)
    targets = make_targets(storage, prepared)
    with pytest.raises(Interrupted):
        train_arm(storage, prepared, targets, CONFIG, SASREC, on_epoch=stop_after(epoch))
    folder = key(CONFIG, SASREC, "distilled", 0, prepared.fingerprint, targets.fingerprint).folder
    attempt = storage.names(f"{folder}/attempts")[0]
    return prepared, targets, Path(storage.path(f"{folder}/attempts/{attempt}/checkpoints"))


@pytest.mark.parametrize("broken", [["checkpoint-000004"], ["checkpoint-000003", "checkpoint-000004"]])
def test_truncated_checkpoints(tmp_path: Path, storage: Storage, broken: list[str], caplog: pytest.LogCaptureFixture
                               ) -> None:
    whole = train_here(tmp_path / "whole")
    prepared, targets, folder = interrupted(storage, 4)
    for name in broken:
        path = folder / name / checkpoints.MODEL
        path.write_bytes(path.read_bytes()[:100])
    epochs: list[int] = []
    with caplog.at_level(logging.WARNING):
        trained = train_arm(storage, prepared, targets, CONFIG, SASREC, on_epoch=noted(epochs))
    assert epochs[0] == (4 if len(broken) == 1 else 1), "from the one before it, or anew where both are broken"
    assert [name for name in broken if f"{name} is damaged" in caplog.text] == broken
    assert weights(trained) == weights(whole)


def test_a_checkpoint_of_other_settings_is_refused(storage: Storage) -> None:
    prepared, targets, folder = interrupted(storage, 3)
    state = folder / "checkpoint-000003" / checkpoints.STATE
    state.write_text(state.read_text().replace('"fingerprint": "', '"fingerprint": "f'))
    digests = folder / "checkpoint-000003" / checkpoints.DIGESTS
    listed = json.loads(digests.read_text())
    digests.write_text(json.dumps({**listed, state.name: digest_file(state)}))
    with pytest.raises(ArtifactError, match="an unfinished training is never resumed with other settings"):
        train_arm(storage, prepared, targets, CONFIG, SASREC)


def no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, targets, folder = interrupted(storage, 2)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", no_space)
        with pytest.raises(StorageError, match="the disk is full.*the last good checkpoint is untouched"):
            train_arm(storage, prepared, targets, CONFIG, SASREC)
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint-000001", "checkpoint-000002"]
    assert checkpoints.damage(folder / "checkpoint-000002") is None
    assert weights(train_arm(storage, prepared, targets, CONFIG, SASREC)) == weights(train_here(tmp_path / "whole"))


def test_a_loss_that_is_not_finite(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, targets, folder = interrupted(storage, 2)
    original = TrainingRows.batch

    def poisoned(rows: Any, rows_B: Any, with_targets: bool) -> Any:
        batch = original(rows, rows_B, with_targets)
        if 7 in rows.users[rows.index_N[rows_B]]:
            monkeypatch.setattr(torch.nn.Embedding, "forward", lambda self, x: self.weight[x] * float("inf"))
        return batch

    monkeypatch.setattr(TrainingRows, "batch", poisoned)
    with pytest.raises(TrainingError, match=r"ranking, gradient_norm became NaN or Inf; .*lower train.optimizer.lr"):
        train_arm(storage, prepared, targets, CONFIG, SASREC)
    saved = json.loads((folder.parent / loop.FAILURE).read_text())
    assert 7 in saved["user_idx"] and len(saved["user_idx"]) <= 16
    assert saved["user_id"] == [f"user-{u}" for u in saved["user_idx"]]
    assert saved["epoch"] == 3
    assert not (folder / "checkpoint-000003").exists()
    assert checkpoints.damage(folder / "checkpoint-000002") is None
    assert all(torch.isfinite(t).all() for t in load_file(folder / "checkpoint-000002" / checkpoints.MODEL).values())
    monkeypatch.undo()
    mended = train_arm(storage, prepared, targets, CONFIG, SASREC)
    assert "non_finite_batch.json" not in mended.manifest.files


def test_a_learning_rate_that_explodes(storage: Storage) -> None:
    prepared = make_prepared(storage)
    wild = CONFIG.model_copy(update={"optimizer": OptimizerConfig(lr=1e30), "gradient_clip": None})
    with pytest.raises(TrainingError, match=r"step \d+ \(epoch 1\)"):
        train_arm(storage, prepared, None, wild, SASREC, "plain")
    assert artifacts.find(storage, key(wild, SASREC, "plain", 0, prepared.fingerprint, None)) is None


def test_batches_without_any_profile(storage: Storage) -> None:
    prepared = make_prepared(storage)
    few = make_targets(storage, prepared, coverage=0.05)
    trained = train_arm(storage, prepared, few, CONFIG.model_copy(update={"batch_size": 2}), SASREC)
    assert 0 < trained.manifest.counts["num_profiled"] < 8
    records = [json.loads(line) for line in trained.local("metrics.jsonl").read_text().splitlines()]
    silent = [r for r in records if r["kind"] == "step" and r["alpha"] > 0 and r["num_profiled"] == 0]
    assert silent and all(r["distillation"] == 0 == r["beta"] for r in silent)


@pytest.mark.parametrize("model", [SASREC, BERT4REC])
def test_a_catalogue_of_one_item(storage: Storage, model: ModelConfig) -> None:
    prepared = make_prepared(storage, Sequences.from_lists([[1], [1, 1], [1, 1, 1, 1]]), items=1)
    info = train_arm(storage, prepared, None, CONFIG, model, "plain").manifest.info
    assert info["best_validation"] == 1.0


def test_nobody_to_learn_from(storage: Storage) -> None:
    prepared = make_prepared(storage, Sequences.from_lists([[1], [2]]), items=2)
    with pytest.raises(DataError, match="no user has 2 or more training items"):
        train_arm(storage, prepared, None, CONFIG, SASREC, "plain")


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_a_pickle_in_place_of_weights_is_refused_unread(storage: Storage, tmp_path: Path) -> None:
    folder = train_arm(storage, make_prepared(storage), None, CONFIG, SASREC, "plain").local("model")
    (folder / "model.safetensors").write_bytes(pickle.dumps(Payload(tmp_path / "touched")))
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_model(folder)
    assert not (tmp_path / "touched").exists()
