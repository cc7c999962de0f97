"""The work of actors as it is begun and ended: what ends its actor again and again ends the stage in words, and what
takes much longer than all else is named.

Ray counts a task's retry also while an actor that died with its node is only thought to be unavailable: a few retries
are gone within seconds, before the death is noticed. So retries have no limit of Ray's, and work has one of ours: how
often it was begun.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

from configs.errors import ResourceError

UNLIMITED = -1
"""Ray's ``max_task_retries``."""
_MOST = 4
"""What was begun so often and never ended is at fault itself, or its nodes are."""
_CALLS = 10
"""How often a call of the counter that fails on its way is made again."""
_SLOW_S = 600.0
_TIMES_SLOWER = 10
_ANSWER_S = 5.0
"""The counter answers at once, but where its process starves."""


class _Counter:
    """The actor that counts. A call that fails on its way is made again, so each may come twice."""

    def __init__(self) -> None:
        self._begun: dict[str, set[str]] = {}
        self._at_work: dict[str, tuple[float, str, str]] = {}
        self._longest_s: dict[str, float] = {}
        """Of each kind of work."""

    def begin(self, kind: str, name: str, where: str, call: str) -> int:
        work = f"{kind} {name}"
        calls = self._begun.setdefault(work, set())
        calls.add(call)
        self._at_work[work] = (time.monotonic(), where, kind)
        return len(calls)

    def end(self, kind: str, name: str) -> None:
        work = f"{kind} {name}"
        self._begun.pop(work, None)
        if work in self._at_work:
            begun, _, _ = self._at_work.pop(work)
            self._longest_s[kind] = max(self._longest_s.get(kind, 0.0), time.monotonic() - begun)

    def slow(self, least_s: float) -> list[tuple[str, float, str, float | None]]:
        """Work that goes on for so long, and for many times what any other of its kind took: what, seconds, where, the
        longest other (None: no other has ended)."""
        now, found = time.monotonic(), []
        for work, (begun, where, kind) in self._at_work.items():
            longest_s = self._longest_s.get(kind)
            if now - begun > max(least_s, _TIMES_SLOWER * (longest_s or 0.0)):
                found.append((work, now - begun, where, longest_s))
        return found


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
        return cls(ray.remote(num_cpus=0, scheduling_strategy=here, max_task_retries=_CALLS)(_Counter).remote())

    def begin(self, kind: str, name: str, label: str) -> None:
        """Work is begun by this actor.

        Args:
            kind: what work it is, as in "the batch that begins with user_idx".
            name: which of that kind.

        Raises:
            ResourceError: it was begun ``_MOST`` times and never ended.
        """
        import ray

        where = ray.util.get_node_ip_address()
        if ray.get(self.counter.begin.remote(kind, name, where, uuid.uuid4().hex)) > _MOST:
            raise ResourceError(f"{label}: {kind} {name} was begun {_MOST} times and its actor died each time, "
                                "perhaps for want of memory; lower execution.batch_rows or execution.actors and run "
                                "again, saved blocks are kept")

    def end(self, kind: str, name: str) -> None:
        """The work is done."""
        self.counter.end.remote(kind, name)

    def slow(self) -> dict[str, str]:
        """Work that may hang → what to say of it."""
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        try:
            found = ray.get(self.counter.slow.remote(_SLOW_S), timeout=_ANSWER_S)
        except (RayError, GetTimeoutError):
            return {}
        told = {}
        for work, seconds, where, longest in found:
            others = "has ended yet" if longest is None else f"took longer than {longest:.0f} s"
            told[work] = (f"{work} has been at work on node {where} for {seconds / 60:.0f} min; no other {others}. If "
                          "it hangs, end this command and call it again: saved blocks are kept")
        return told
