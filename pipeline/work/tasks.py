"""One function called many times, in this process or as Ray tasks: the results come in the order of the calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import starmap
from typing import Any, Final, Protocol, TypeVar

from cluster.config import Placement
from configs.errors import ResourceError
from pipeline.work.nodes import await_gpus, await_nodes, require_room, require_type
from pipeline.work.ray_errors import our_errors

T = TypeVar("T")
_AHEAD: Final = 4
"""Calls of each worker that are begun and whose results were not asked for yet, at most."""
_THREADS: Final = "POLARS_MAX_THREADS"
_ENDING_S: Final = 30.0
"""What was begun and is not wanted any more has so long to end."""


class Workers(Protocol):
    """Whoever makes the calls."""

    @property
    def number(self) -> int:
        """Calls at a time; 0: this process makes them, one after the other."""

    def share(self, value: Any) -> Any:
        """What to pass in the place of an argument that many calls have, so that it travels once."""

    def run(self, work: Callable[..., T], calls: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """The results of ``work`` for each tuple of arguments, in their order; the first failure in that order is
        raised. A call may be made again, so it must leave nothing that another attempt would trip over."""


class ThisProcess:
    """Calls as they are asked for."""

    number = 0

    def share(self, value: Any) -> Any:
        return value

    def run(self, work: Callable[..., T], calls: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        return starmap(work, calls)


@dataclass(frozen=True)
class RayTasks:
    """A task each, so many at a time on all nodes. Ray must be running."""

    label: str
    """Names the stage in errors and settings."""
    number: int
    num_cpus: float
    """Of each task."""
    placement: Placement
    remedy: str
    """What to set where tasks want for memory."""

    def require_nodes(self) -> None:
        """Wait for nodes that an autoscaler brings.

        Raises:
            ResourceError: no node has what a task asks for, and it would wait in silence.
        """
        wanted = {"CPU": self.num_cpus, **self.placement.resources}
        require_type(self.placement.accelerator_type, self.label)
        await_nodes([wanted] * self.number, self.label)
        await_gpus([wanted], self.label, f"correct {self.label}.execution.resources")  # one at a time is enough
        require_room(wanted, self.label, f"lower {self.label}.execution.num_cpus")

    def share(self, value: Any) -> Any:
        import ray

        return ray.put(value)

    def run(self, work: Callable[..., T], calls: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        import ray

        task: Any = ray.remote(work).options(num_cpus=self.num_cpus, **self._options())
        for reference in in_order((task.remote(*call) for call in calls), self.number):
            yield result(reference, self.label, self.remedy)

    def _options(self) -> dict[str, Any]:
        """Polars would start as many threads in each process as the node has CPUs, with buffers for all."""
        given = self.placement.runtime_env
        variables = {_THREADS: str(max(1, round(self.num_cpus))), **given.get("env_vars", {})}
        return {**self.placement.ray_options(), "runtime_env": {**given, "env_vars": variables}}


def result(reference: Any, label: str, remedy: str) -> Any:
    """What a task gave.

    Args:
        label: names the stage in errors.
        remedy: what to set where its process died for want of memory.

    Raises:
        MentorecError: what the task raised.
        ResourceError: its process died again and again.
    """
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

    try:
        with our_errors(label):
            return ray.get(reference)
    except (NodeDiedError, OutOfMemoryError, WorkerCrashedError) as exc:
        raise ResourceError(f"{label}: a task's process died again and again, perhaps for want of memory; {remedy}"
                            ) from exc


def in_order(begin: Iterator[Any], number: int, ended: Callable[[Any], None] = lambda _: None) -> Iterator[Any]:
    """References of Ray tasks that have ended, in the order in which ``begin`` starts them, one with each ``next``.

    So many run at a time. Answers that come before their turn wait in Ray's object store; they are never many. What is
    begun and not wanted any more is cancelled.

    Args:
        ended: told of each as it ends, whatever its turn.
    """
    import ray

    begun, at_work, more = deque[Any](), set[Any](), True
    try:
        while more or begun:
            while more and len(at_work) < number and len(begun) < _AHEAD * number:
                reference = next(begin, None)
                more = reference is not None
                if more:
                    begun.append(reference)
                    at_work.add(reference)
            is_next_done = bool(begun) and begun[0] not in at_work
            if at_work:
                done, _ = ray.wait(list(at_work), num_returns=len(at_work) if is_next_done else 1,
                                   timeout=0 if is_next_done else None, fetch_local=False)
                at_work -= set(done)
                for reference in done:
                    ended(reference)
            if is_next_done:
                yield begun.popleft()
    finally:
        if begun and ray.is_initialized():
            for reference in begun:
                ray.cancel(reference, force=True)
            ray.wait(list(begun), num_returns=len(begun), timeout=_ENDING_S, fetch_local=False)
