"""Transform many rows: on Ray actors where Ray runs, else in this process; the result is the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cluster.config import ActorExecution
from cluster.storage import Storage
from pipeline.reduce.reducer import Reducer
from pipeline.reduce.vectors import VectorTable
from pipeline.work.nodes import actor_resources
from pipeline.work.progress import track
from pipeline.work.ray_errors import our_errors

_ATTEMPTS = 4
"""An actor that dies is made again so often, on another node where its own is lost, and its span is done again."""


class TransformActor:
    """Holds a reducer in a worker process, loaded for the first span: an error of its constructor would end the actor
    without a word."""

    def __init__(self, storage: Storage, folder: str, table: VectorTable) -> None:
        self._where, self._table = (storage, folder), table
        self._reducer: Reducer | None = None

    def transform(self, rows: np.ndarray) -> np.ndarray:
        """Targets of some rows of the table, fp32 [len(rows), P]."""
        if self._reducer is None:
            self._reducer = Reducer.load(*self._where)
        return self._reducer.transform(self._table.gather(rows))


def transform_spans(storage: Storage, folder: str, table: VectorTable, spans: Sequence[np.ndarray],
                    execution: ActorExecution) -> Iterator[np.ndarray]:
    """The targets of each span of rows, in order.

    Args:
        storage: of the saved reducer.
        folder: the reducer's, below the storage root.
        table: the vectors.
        spans: row indices that are read and transformed together.
        execution: number and size of the actors.

    Raises:
        ResourceError: the cluster has fewer GPUs than the actors ask for, or an actor died again and again.
    """
    if not spans:
        return
    label, total = "reduce: transforming", sum(map(len, spans))
    import ray

    if not execution.actors or not ray.is_initialized():
        local = TransformActor(storage, folder, table)
        yield from (local.transform(rows) for rows in track(spans, label, "rows", total, len))
        return
    from ray.util import ActorPool

    used = execution.model_copy(update={"actors": min(execution.actors, len(spans))})
    remote: Any = ray.remote(max_restarts=_ATTEMPTS, max_task_retries=_ATTEMPTS, **actor_resources(used, "reduce"))(
        TransformActor)
    shared = ray.put(table)
    actors = [remote.remote(storage, folder, shared) for _ in range(used.actors)]
    results = ActorPool(actors).map(lambda actor, rows: actor.transform.remote(rows), list(spans))
    try:
        with our_errors("reduce"):
            yield from track(results, label, "rows", total, len)
    finally:
        for actor in actors:
            ray.kill(actor)
