"""How often a batch was begun and not ended: what ends its actor again and again ends the stage in words.

Ray counts a task's retry also while an actor that died with its node is only thought to be unavailable: a few retries
are gone within seconds, before the death is noticed. So retries have no limit of Ray's, and batches have one of ours:
how often their work was begun.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from configs.errors import ResourceError

UNLIMITED = -1
"""Ray's ``max_task_retries``."""
_MOST = 4
"""What was begun so often and never ended is at fault itself, or its nodes are."""


class _Counter:
    """The actor that counts."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, batch: str) -> int:
        self._begun[batch] += 1
        return self._begun[batch]

    def end(self, batch: str) -> None:
        del self._begun[batch]


@dataclass(frozen=True)
class Attempts:
    """A handle of the counting actor, for actors that do the work."""

    counter: Any

    @classmethod
    def start(cls) -> Attempts:
        """Beside the driver, with which it ends. Ray must be running."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return cls(ray.remote(num_cpus=0, scheduling_strategy=here)(_Counter).remote())

    def begin(self, batch: str, label: str) -> None:
        """A batch is begun.

        Args:
            batch: names it.

        Raises:
            ResourceError: it was begun ``_MOST`` times and never ended.
        """
        import ray

        if ray.get(self.counter.begin.remote(batch)) > _MOST:
            raise ResourceError(f"{label}: the batch that begins with {batch} was begun {_MOST} times and its actor "
                                "died each time, perhaps for want of memory; lower execution.batch_rows or "
                                "execution.actors and run again, saved blocks are kept")

    def end(self, batch: str) -> None:
        """The batch is done."""
        self.counter.end.remote(batch)
