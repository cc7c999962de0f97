"""The training loop on Ray Train: DDP workers (gloo on CPUs, nccl on GPUs), restarts, checkpoints in the storage."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import ray.train
import ray.train.torch
import torch
from ray.exceptions import ActorUnavailableError
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

from cluster.addresses import API_ADDRESS
from cluster.connect import own_api
from cluster.faults import fault
from cluster.machine import cpu_count
from cluster.small_files import read_again
from cluster.storage import Storage
from configs.errors import MentorecError, ResourceError, TrainingError
from pipeline.train.checkpoint import Outcome, read_outcome
from pipeline.train.execution_config import TrainExecution
from pipeline.train.loop import FAILURE, NotFinite, train_loop
from pipeline.train.metrics_log import LATEST_EPOCH
from pipeline.train.room import await_the_fewest, elastic, resources_of, telling_of_waiting
from pipeline.train.session import KEPT_CHECKPOINTS, first_whole
from pipeline.train.spec import TrainSpec
from pipeline.work.nodes import require_type
from pipeline.work.progress import say
from pipeline.work.threads import torch_threads

_SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Ray Train's own list of checkpoints; it is not written in one piece."""

_START_ATTEMPTS = 10
"""Ray waits about a minute for its workers, so often; enough for an autoscaler to bring nodes."""
_POLL_SECONDS = "0.25"
"""Ray takes up reports only when it polls; its default of 2 s would be the least duration of an epoch."""


class RaySession:
    """One rank of a Ray Train worker group; see ``session.Session``."""

    def __init__(self, storage: Storage, latest: str) -> None:
        """
        Args:
            latest: file of the storage that tells the driver what was reported last.
        """
        self._storage, self._latest = storage, latest
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # a worker sees its node's other GPUs too
        self._scratch = tempfile.TemporaryDirectory()

    def latest_checkpoint(self) -> Path | None:
        return first_whole((Path(c.path).name, self._fetch(c)) for c in _newest_first())

    def new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._scratch.name))

    def _fetch(self, checkpoint: Checkpoint) -> Path:
        if isinstance(checkpoint.filesystem, pafs.LocalFileSystem):
            return Path(checkpoint.path)
        return Path(read_again(lambda: checkpoint.to_directory(str(self.new_folder()))))

    def report(self, metrics: dict[str, Any], checkpoint: Path | None) -> None:
        if self.rank == 0:
            self._storage.write_json(self._latest, metrics)
        if checkpoint is None:
            ray.train.report(metrics)
            return
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(str(checkpoint)))
        shutil.rmtree(checkpoint, ignore_errors=True)


def fit(spec: TrainSpec, storage: Storage, folder: str) -> Outcome:
    """Train on Ray; the same spec and folder go on where a killed driver or worker stopped. Ray must be running.

    Args:
        spec: what to train.
        storage: holds everything.
        folder: of Ray Train's own files, relative to the storage root.

    Returns:
        What the last checkpoint holds of the result.

    Raises:
        TrainingError: the loss stopped being finite, or workers failed more often than ``max_failures``.
        ResourceError: the cluster cannot place the workers.
        MentorecError: what a worker raised.
    """
    execution = spec.config.execution
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", _POLL_SECONDS)
    require_type(execution.accelerator_type, "train")
    await_the_fewest(execution)
    storage.make_dir(folder)
    own = f"{folder}/{spec.fingerprint}"
    drop_torn_snapshot(storage, f"{own}/{_SNAPSHOT}")
    left, before = execution.max_failures, _checkpoints(storage, own)
    while True:
        try:
            with _own_interrupt_handler(), _asking_this_ray(), telling_of_waiting(execution):
                result = _trainer(spec, storage, folder).fit()
            break
        except (ray.train.TrainingFailedError, ActorUnavailableError) as exc:
            there = _checkpoints(storage, own)
            if elastic(execution) and not there <= before and not _own_error(exc):
                say("train: nodes were lost again and again, and epochs were finished in between; going on from the "
                    "last checkpoint")
            elif left and _lost_a_call(exc):
                left -= 1
                say("train: Ray Train lost the connection to a worker for a moment; going on from the last checkpoint")
            else:
                raise _explain(exc, execution, storage.path(folder)) from exc
            before = there
    if storage.exists(f"{spec.folder}/{FAILURE}"):
        raise TrainingError(storage.read_json(f"{spec.folder}/{FAILURE}")["message"])
    if result.checkpoint is None:
        raise TrainingError(f"Ray Train ended without a checkpoint; see its files in {storage.path(folder)}")
    with result.checkpoint.as_directory() as last:
        return read_outcome(Path(last), spec.fingerprint)


def _trainer(spec: TrainSpec, storage: Storage, folder: str) -> ray.train.torch.TorchTrainer:
    execution = spec.config.execution
    return ray.train.torch.TorchTrainer(
        worker_loop,
        train_loop_config={"spec": spec.model_dump(mode="json"), "storage": storage},
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if execution.use_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=execution.num_workers, use_gpu=execution.use_gpu,
                                     resources_per_worker=resources_of(execution),
                                     accelerator_type=execution.accelerator_type,
                                     elastic_resize_monitor_interval_s=execution.resize_every_s),
        run_config=RunConfig(name=spec.fingerprint, storage_path=storage.path(folder),
                             storage_filesystem=storage.filesystem, worker_runtime_env=execution.runtime_env,
                             failure_config=FailureConfig(max_failures=execution.max_failures,
                                                          controller_failure_limit=_START_ATTEMPTS),
                             checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS)))


def _lost_a_call(exc: Exception) -> bool:
    """Whether a remote call to or of Ray Train's controller failed on its way: it is made once, without a retry."""
    if isinstance(exc, ray.train.ControllerError):
        exc = exc.controller_failure
    return isinstance(exc, ActorUnavailableError)


def drop_torn_snapshot(storage: Storage, path: str) -> None:
    """Remove Ray Train's list of checkpoints if its writer was killed half-way: Ray would refuse to start for ever.

    Training then starts from its first step; with the same order and masks it ends with the same model.
    """
    if not storage.exists(path):
        return
    try:
        storage.read_json(path)
    except ValueError:  # not JSON, not UTF-8
        say(f"train: {storage.path(path)} was cut off while it was written; starting this training anew")
        storage.delete(path)


def worker_loop(config: dict[Any, Any]) -> None:
    """What every Ray Train worker runs.

    What stopped being finite would do so again after a restart, so it is no failure to Ray: all ranks return, and the
    driver finds the file that the loop has left.
    """
    spec, storage = TrainSpec.model_validate(config["spec"]), config["storage"]
    session = RaySession(storage, f"{spec.folder}/{LATEST_EPOCH}")
    threads = spec.config.execution.threads_per_worker
    local_workers = ray.train.get_context().get_local_world_size()
    with torch_threads(threads or max(1, cpu_count() // local_workers)), tempfile.TemporaryDirectory() as scratch:
        live = Path(storage.path(spec.folder)) if storage.is_local else Path(scratch)
        try:
            train_loop(session, spec, storage, live)
        except NotFinite:
            return


def _newest_first() -> Iterator[Checkpoint]:
    latest = ray.train.get_checkpoint()
    if latest is None:
        return
    yield latest
    for reported in reversed(ray.train.get_all_reported_checkpoints()):
        if reported.checkpoint.path != latest.path:
            yield reported.checkpoint


def _checkpoints(storage: Storage, folder: str) -> set[str]:
    """Names of those that Ray Train keeps."""
    return {name for name in storage.names(folder) if name.startswith("checkpoint_") and not name.endswith(".json")}


def _own_error(exc: Exception) -> bool:
    """Whether a worker raised one of ours, which it would do again."""
    return isinstance(exc, ray.train.WorkerGroupError) and any(
        isinstance(failure, MentorecError) for failure in exc.worker_failures.values())


def _explain(exc: Exception, execution: TrainExecution, folder: str) -> MentorecError:
    """Our own error if a worker raised one, else what failed and how often."""
    if isinstance(exc, ray.train.WorkerGroupError):
        for failure in exc.worker_failures.values():
            if isinstance(failure, MentorecError):
                return failure
            refused = fault(failure, folder)
            if refused is not None:
                return refused
        reasons = {rank: _reason(failure) for rank, failure in exc.worker_failures.items()}
        return TrainingError("training workers failed (rank: reason) and "
                             f"max_failures={execution.max_failures} restarts did not help: {reasons}; the last "
                             "good checkpoint is kept: run the same command again")
    needed = ", ".join(f"{execution.fewest_workers} × {value:g} {name}"
                       for name, value in resources_of(execution).items())
    return ResourceError(f"Ray Train could not run its workers ({needed}): {' '.join(str(exc).split())[:300]}; if "
                         "there is no room, lower train.execution.num_workers or cpus_per_worker, or add nodes; if its "
                         f"stored state is at fault, delete {folder} to train anew")


def _reason(failure: Exception) -> str:
    """Its kind, and the last line of what it says."""
    return ": ".join([type(failure).__name__, *str(failure).strip().splitlines()[-1:]])


@contextmanager
def _asking_this_ray() -> Iterator[None]:
    """Ray Train's cleaner asks a dashboard whether the training lives, and frees its workers' room if not. On a machine
    that runs several Rays it would ask any; it takes our environment's answer only of names that Ray Train passes on.
    """
    ENV_VARS_TO_PROPAGATE.add(API_ADDRESS)
    before = os.environ.get(API_ADDRESS)
    os.environ |= own_api()
    try:
        yield
    finally:
        if before is None:
            del os.environ[API_ADDRESS]
        else:
            os.environ[API_ADDRESS] = before


@contextmanager
def _own_interrupt_handler() -> Iterator[None]:
    """Ray Train replaces the handler of Ctrl-C and leaves its own behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as exc:  # what that handler raises
        raise KeyboardInterrupt from exc
    finally:
        signal.signal(signal.SIGINT, before)
