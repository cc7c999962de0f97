"""Errors that come through Ray, as ours."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from configs.errors import MentorecError, ResourceError

Given = TypeVar("Given")


def without_actors(work: Callable[[], Given]) -> Given:
    """What the work gives; an error of ours, or an interruption, goes on without Ray Data's frames.

    They hold the actors that were at work, and with them CPUs and GPUs: until the next garbage collection, and in a
    notebook, which keeps the last error, for as long as it shows it.
    """
    try:
        return work()
    except (MentorecError, KeyboardInterrupt) as exc:
        ours = exc
    cause: BaseException | None = ours
    while cause is not None:
        cause.__traceback__ = cause.__context__ = None
        cause = cause.__cause__
    gc.collect()
    raise ours


@contextmanager
def our_errors(label: str) -> Iterator[None]:
    """Raise the MentorecError behind Ray's error, where there is one."""
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayTaskError as exc:
        cause = exc.cause
        if not isinstance(cause, MentorecError):
            raise
        cause.args = (str(cause).partition("\n")[0],)  # Ray adds lines on how to retry
        raise cause from exc
    except ray.exceptions.RayActorError as exc:
        raise ResourceError(f"{label}: an actor died again and again, perhaps for want of memory; lower the batch size "
                            "or the number of actors and run again, what is saved is kept") from exc
