"""Room for the workers of a training: what each needs, whether the cluster has it, and who waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ray
import ray._private.state
from ray.exceptions import RayError

from configs.errors import ResourceError
from pipeline.train.execution_config import TrainExecution
from pipeline.work.nodes import await_nodes, room_for
from pipeline.work.progress import say

_WATCH_S, _IDLE_S = 15.0, 60.0


def resources_of(execution: TrainExecution) -> dict[str, float]:
    return {"CPU": execution.cpus_per_worker} | ({"GPU": 1.0} if execution.use_gpu else {}) | execution.resources


def elastic(execution: TrainExecution) -> bool:
    """Whether the number of workers may change."""
    return execution.fewest_workers < execution.most_workers


def await_the_fewest(execution: TrainExecution) -> None:
    """Ray Train waits for an elastic group's fewest workers without an end, for a fixed one's some minutes.

    Raises:
        ResourceError: the cluster has no room for those of an elastic group, and its autoscaler brings none.
    """
    short = shortage_after_waiting(execution, "train")
    if elastic(execution) and short:
        raise ResourceError(f"train: {short}; lower the first number of train.execution.num_workers or "
                            "cpus_per_worker, or add nodes")


@contextmanager
def telling_of_waiting(execution: TrainExecution) -> Iterator[None]:
    """Says when the cluster has no room for the fewest workers, or none has run for a minute: Ray waits in silence."""
    ended = threading.Event()

    def watch() -> None:
        told, idle_since = "", time.monotonic()
        while True:
            running = _workers_alive()
            idle_since = time.monotonic() if running else idle_since
            short = "" if running else _shortage(execution)
            if not short and time.monotonic() - idle_since > _IDLE_S:
                short = "no worker has run for a minute: other work in the cluster may hold its room (`ray status`)"
            if short and short != told:
                say(f"train: {short}; waiting (lower train.execution.num_workers if nobody makes room)")
            told = short
            if ended.wait(_WATCH_S):
                return

    def watch_as_long_as_ray_answers() -> None:
        with suppress(RayError, ConnectionError, RuntimeError):
            watch()

    threading.Thread(target=watch_as_long_as_ray_answers, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _workers_alive() -> int:
    """Of this job's training."""
    job = ray.get_runtime_context().get_job_id()
    actors = ray._private.state.actors(job_id=ray.JobID.from_hex(job), actor_state_name="ALIVE")
    return sum(actor["ActorClassName"].endswith("TrainWorker") for actor in actors.values())


def shortage_after_waiting(execution: TrainExecution, label: str) -> str:
    """:func:`_shortage` once an autoscaler has brought what it can; ``label`` says who waits."""
    await_nodes([resources_of(execution)] * execution.fewest_workers, label)
    return _shortage(execution)


def _shortage(execution: TrainExecution) -> str:
    """What the nodes lack for the fewest workers, each of which is on one node; empty: nothing."""
    each = resources_of(execution)
    room = room_for(each)
    if room >= execution.fewest_workers:
        return ""
    shown = " and ".join(f"{amount:g} {name}" for name, amount in each.items())
    return (f"{execution.fewest_workers} workers are asked for, each with {shown} of one node; there is room "
            f"for {room}")
