"""A Parquet folder mapped row by row through a pool of Ray actors: resumable, every row exactly once."""

from __future__ import annotations

import logging
import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cluster.config import ActorExecution
from cluster.storage import Storage
from pipeline.store.artifacts import ArtifactDir
from pipeline.store.rows import WORK, checkpoint_of, rows_of
from pipeline.work.ascending import held
from pipeline.work.attempts import UNLIMITED, Attempts
from pipeline.work.here import forget_blocks, map_here
from pipeline.work.nodes import actor_resources, cpus_held
from pipeline.work.progress import Progress, complain, say
from pipeline.work.ray_errors import our_errors, without_actors

if TYPE_CHECKING:
    from ray.data import Dataset

_HELPER_CPUS = 0.25
"""CPUs of a reading or writing task: they wait for storage, not for a core."""
_BLOCKS_PER_ACTOR = 4
"""Small inputs are cut finer than ``block_rows``, so that every actor gets work."""
_SILENT_S = 30.0
"""After so long without a saved block it is said whether the cluster is occupied."""
_POLL_S, _PATIENCE = 2.0, 20.0
"""Seconds between two looks at the saved blocks; more where a look takes long, as at many thousands in an object store:
so many times as long."""

Actor = Callable[[pa.Table], pa.Table]


def map_rows(storage: Storage, source: str, out: ArtifactDir, *, actor: Callable[..., Actor],
             arguments: Mapping[str, Any], id_column: str, columns: list[str], num_rows: int,
             execution: ActorExecution, label: str, unit: str = "users", folder: str = WORK,
             only: np.ndarray | None = None) -> None:
    """Send every row of a Parquet folder through a pool of actors; results go to ``<folder>/rows`` of the attempt.

    Rows that an earlier, killed call of the same attempt has written are not computed again. Ray must be running,
    unless ``execution.actors`` is 0; where its autoscaler can bring the nodes that the actors ask for, they are waited
    for.

    Args:
        source: folder of Parquet files below the storage root.
        actor: class whose instances take and return a ``pyarrow.Table``, one row out per row in, ``id_column`` kept.
        arguments: of the class's constructor; they travel once per actor, so large things go by path.
        id_column: int64, unique over all rows.
        columns: read from the source.
        num_rows: rows that are mapped.
        label: names the work in progress lines and errors.
        unit: what a row is, in the plural.
        folder: of the attempt; holds rows and checkpoint of this map alone.
        only: ascending ids of the rows to map; None: all.

    Raises:
        MentorecError: raised in an actor; it arrives here as itself.
        ResourceError: the cluster has fewer GPUs than the actors ask for.
    """
    if not execution.actors:
        map_here(storage, source, out, actor=actor(**arguments), id_column=id_column, columns=columns,
                 num_rows=num_rows, execution=execution, label=label, unit=unit, folder=folder, only=only)
        return
    forget_blocks(out, folder, of_ray=False)
    resources = actor_resources(execution, label)
    block_rows = max(1, min(execution.block_rows, math.ceil(num_rows / (execution.actors * _BLOCKS_PER_ACTOR))))
    context, attempts = _context(out, folder, id_column), Attempts.start()

    def work() -> None:
        import ray
        import ray.data

        with (ray.data.DataContext.current(context), our_errors(label),
              _shown(out, folder, block_rows, num_rows, label, unit, attempts)):
            dataset = ray.data.read_parquet(storage.path(source), filesystem=storage.filesystem, columns=columns,
                                            partitioning=None, num_cpus=_HELPER_CPUS)
            done_ref = _done_ids(out, folder, context)
            for ids_ref, kept in ((ray.put(only) if only is not None else None, True), (done_ref, False)):
                if ids_ref is not None:
                    dataset = dataset.map_batches(_among, fn_args=[ids_ref, id_column, kept], batch_format="pyarrow",
                                                  num_cpus=_HELPER_CPUS)
            with warnings.catch_warnings():  # how often a task is retried has no other parameter yet
                warnings.simplefilter("ignore", DeprecationWarning)
                dataset = in_blocks(dataset, block_rows, _HELPER_CPUS).map_batches(
                    _DeferredActor, fn_constructor_kwargs={
                        "actor": actor, "arguments": dict(arguments), "attempts": attempts, "id_column": id_column,
                        "label": label},
                    batch_format="pyarrow", batch_size=min(execution.batch_rows, block_rows),
                    compute=ray.data.ActorPoolStrategy(size=execution.actors),
                    max_task_retries=UNLIMITED, **resources)
            dataset.write_parquet(out.path(rows_of(folder)), filesystem=out.storage.filesystem,
                                  ray_remote_args={"num_cpus": _HELPER_CPUS})

    without_actors(work)


def in_blocks(dataset: Dataset, rows: int, num_cpus: float) -> Dataset:
    """Blocks of so many rows.

    Cutting asks for a whole CPU where nothing else is said, and no parameter says it: where actors leave just one, a
    reader that waits until its rows are cut would hold a part of it for ever.
    """
    cut = dataset.repartition(target_num_rows_per_block=rows)
    cut._logical_plan.dag.ray_remote_args["num_cpus"] = num_cpus  # type: ignore[attr-defined]
    return cut


def quiet_context() -> Any:
    """Ray Data's settings of ours: nothing but errors is logged, and errors arrive as they were raised."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised as well
    warnings.filterwarnings("ignore", "The maximum number of concurrent tasks", UserWarning)  # of small inputs
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False  # they speak of operators and backpressure
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.use_datasource_v2 = False  # it lists files and reads their ends in actors, whose start takes seconds
    return context


def _context(out: ArtifactDir, folder: str, id_column: str) -> Any:
    """:func:`quiet_context`, with blocks checkpointed below the attempt."""
    from ray.data.checkpoint import CheckpointConfig

    for inside in (rows_of(folder), checkpoint_of(folder)):
        out.storage.make_dir(out.relative(inside))
    context = quiet_context()
    context.checkpoint_config = CheckpointConfig(
        id_column, out.path(checkpoint_of(folder)), override_filesystem=out.storage.filesystem,
        delete_checkpoint_on_success=False, checkpoint_manager_cls=_nothing_to_filter())
    return context


def _done_ids(out: ArtifactDir, folder: str, context: Any) -> Any:
    """Reference to the ascending ids of the saved rows, None when there are none; half-written blocks are removed."""
    from ray.data.checkpoint.checkpoint_filter import IdColumnCheckpointManager

    if not out.storage.names(out.relative(checkpoint_of(folder))):
        return None
    manager = IdColumnCheckpointManager(context.checkpoint_config, context)
    return manager.load_checkpoint(out.path(rows_of(folder)), out.storage.filesystem)[0]


class _DeferredActor:
    """An actor whose constructor's error waits for the first batch: of a task Ray hands on the error itself."""

    def __init__(self, actor: Callable[..., Actor], arguments: Mapping[str, Any], attempts: Attempts, id_column: str,
                 label: str) -> None:
        import ray

        self._error: Exception | None = None
        self._attempts, self._id_column, self._label = attempts, id_column, label
        start = "the start of actor", str(ray.get_runtime_context().get_actor_id())  # which a restart leaves as it is
        try:
            attempts.begin(*start, label)
            self._actor = actor(**arguments)
            attempts.end(*start)
        except Exception as exc:
            self._error = exc

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self._error is not None:
            raise self._error
        work = f"the batch that begins with {self._id_column}", str(batch[self._id_column][0].as_py())
        self._attempts.begin(*work, self._label)
        done = self._actor(batch)
        self._attempts.end(*work)
        return done


def _among(batch: pa.Table, ids_ref: Any, id_column: str, kept: bool) -> pa.Table:
    """The rows whose ids are in the ascending array behind ``ids_ref``, or those that are not."""
    import ray

    return batch.filter(pa.array(held(ray.get(ids_ref), batch[id_column].to_numpy()) == kept))


def _nothing_to_filter() -> type[Any]:
    """A checkpoint manager that plans no filter.

    Ray's own filter actor takes a whole CPU for the length of the run, next to the repartition's: on two CPUs a
    resumed run would wait for ever. :func:`_among` filters inside the reading tasks instead.
    """
    from ray.data.checkpoint.checkpoint_filter import CheckpointManager

    class NothingToFilter(CheckpointManager):
        def load_checkpoint(self, data_file_dir: str | None = None,
                            data_file_filesystem: Any = None) -> tuple[None, int]:
            return None, 0

    return NothingToFilter


@contextmanager
def _shown(out: ArtifactDir, folder: str, block_rows: int, num_rows: int, label: str, unit: str, attempts: Attempts
           ) -> Iterator[None]:
    """Progress by the blocks that are saved, and a line for work that may hang."""
    finished, started = threading.Event(), time.monotonic()

    def saved() -> int:
        names = out.storage.names(out.relative(checkpoint_of(folder)))
        return min(num_rows, block_rows * sum(not name.endswith(".pending.parquet") for name in names))

    def watch() -> None:
        before, told, named = saved(), False, set[str]()
        pause = _POLL_S
        with Progress(label, num_rows, unit, done=before) as progress:
            while not finished.wait(pause):
                asked = time.monotonic()
                done = saved()
                pause = max(_POLL_S, _PATIENCE * (time.monotonic() - asked))
                progress.update(done)
                if done == before and not told and time.monotonic() > started + _SILENT_S and (line := cpus_held()):
                    told = True
                    say(f"{label}: nothing is done yet; {line}")
                for work, line in attempts.slow().items() if time.monotonic() > started + _SILENT_S else ():
                    if work not in named:
                        named.add(work)
                        complain(f"{label}: warning: {line}")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
