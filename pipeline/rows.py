"""A Parquet folder mapped row by row through Ray actors: resumable, every row exactly once, sorted output.

A stage calls :func:`map_rows` (Ray does the work and remembers finished blocks), then :func:`sorted_parts` (the
result in id order, checked to hold every id once), writes its files from that, then :func:`remove_work`.
Everything on the way lives in ``work/`` of the attempt, so the rerun of a killed command finds it.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from cluster.config import ActorExecution
from cluster.storage import Storage
from configs.errors import ArtifactError, MentorecError, ResourceError
from pipeline.artifacts import ArtifactDir
from pipeline.progress import is_quiet, say

ROW_ID = "row_id"
"""Column of a mapped folder's rows, int64 0…n-1: the id of stages that read it in turn."""
WORK = "work"
_RAW = f"{WORK}/rows"
_DONE = f"{WORK}/checkpoint"
_HELPER_CPUS = 0.25
"""CPUs of a reading or writing task: they wait for storage, not for a core."""
_BLOCKS_PER_ACTOR = 4
"""Small inputs are cut finer than ``block_rows``, so that every actor gets work."""
_MAX_ACTOR_TASK_RETRIES = 5
"""A block that ends its actor so often is at fault itself."""
_PROGRESS_SECONDS = 15.0

Actor = Callable[[pa.Table], pa.Table]


def map_rows(storage: Storage, source: str, out: ArtifactDir, *, actor: Callable[..., Actor],
             arguments: Mapping[str, Any], id_column: str, columns: list[str], num_rows: int,
             execution: ActorExecution, label: str) -> None:
    """Send every row of a Parquet folder through a pool of actors; results go to the attempt's work folder.

    Rows that an earlier, killed call of the same attempt has written are not computed again. Ray must be running.

    Args:
        source: folder of Parquet files below the storage root.
        actor: class whose instances take and return a ``pyarrow.Table``, one row out per row in, ``id_column`` kept.
        arguments: of the class's constructor; they travel once per actor, so large things go by path.
        id_column: int64, unique over all rows.
        columns: read from the source.
        num_rows: rows of the source.
        label: names the work in progress lines and errors.

    Raises:
        MentorecError: raised in an actor; it arrives here as itself.
        ResourceError: the cluster has fewer GPUs than the actors ask for.
    """
    import ray.data
    from ray.data.checkpoint import CheckpointConfig
    from ray.data.checkpoint.checkpoint_filter import IdColumnCheckpointManager

    resources = _actor_resources(execution)
    block_rows = max(1, min(execution.block_rows, math.ceil(num_rows / (execution.actors * _BLOCKS_PER_ACTOR))))
    rows_path, done_path = out.path(_RAW), out.path(_DONE)
    storage.make_dir(out.relative(_RAW))
    storage.make_dir(out.relative(_DONE))
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised as well
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = sys.stderr.isatty() and not is_quiet()
    context.print_on_execution_start = False
    checkpoint = CheckpointConfig(id_column, done_path, override_filesystem=storage.filesystem,
                                  delete_checkpoint_on_success=False, checkpoint_manager_cls=_nothing_to_filter())
    context.checkpoint_config = checkpoint
    with ray.data.DataContext.current(context), _our_errors(label):
        done_ref = None
        if storage.names(out.relative(_DONE)):
            done_ref, _ = IdColumnCheckpointManager(checkpoint, context).load_checkpoint(rows_path, storage.filesystem)
        dataset = ray.data.read_parquet(storage.path(source), filesystem=storage.filesystem, columns=columns,
                                        partitioning=None, num_cpus=_HELPER_CPUS)
        if done_ref is not None:
            dataset = dataset.map_batches(_drop_done, fn_args=[done_ref], fn_kwargs={"id_column": id_column},
                                          batch_format="pyarrow", num_cpus=_HELPER_CPUS)
        with warnings.catch_warnings():  # how often a task is retried has no other parameter yet
            warnings.simplefilter("ignore", DeprecationWarning)
            dataset = dataset.repartition(target_num_rows_per_block=block_rows).map_batches(
                _Held, fn_constructor_kwargs={"actor": actor, "arguments": dict(arguments)}, batch_format="pyarrow",
                batch_size=min(execution.batch_rows, block_rows),
                compute=ray.data.ActorPoolStrategy(size=execution.actors),
                max_task_retries=_MAX_ACTOR_TASK_RETRIES, **resources)
        with _progress_lines(storage, out, block_rows, num_rows, label):
            dataset.write_parquet(rows_path, filesystem=storage.filesystem, ray_remote_args={"num_cpus": _HELPER_CPUS})


def sorted_parts(out: ArtifactDir, id_column: str, ids: np.ndarray, part_rows: int) -> Iterator[pa.Table]:
    """The mapped rows in id order, ``part_rows`` at a time; one part is in memory at once.

    What comes out depends on ``ids`` and the rows alone, never on blocks, actors or interruptions.

    Args:
        ids: every id there must be, ascending.

    Raises:
        ArtifactError: an id is missing, stands twice, or is none of ``ids``.
    """
    dataset = pads.dataset(out.path(_RAW), format="parquet", filesystem=out.storage.filesystem)
    for start in range(0, len(ids), part_rows):
        expected = ids[start:start + part_rows]
        id_field = pads.field(id_column)
        part = dataset.to_table(filter=(id_field >= int(expected[0])) & (id_field <= int(expected[-1])))
        part = part.sort_by(id_column).combine_chunks()
        found = part[id_column].to_numpy()
        if not np.array_equal(found, expected):
            missing = np.setdiff1d(expected, found)
            again = found[1:][found[1:] == found[:-1]]
            raise ArtifactError(
                f"{out.relative(_RAW)}: {id_column} {int(expected[0])}…{int(expected[-1])}: {len(missing)} missing "
                f"{missing[:3].tolist()}, {len(again)} twice {again[:3].tolist()}; delete the folder {out.folder} and "
                "run again")
        yield part


def remove_work(out: ArtifactDir) -> None:
    """Delete the work folder. Call it once the artifact's own files are complete."""
    out.storage.delete(out.relative(WORK))


def row_ids(storage: Storage, folder: str, id_column: str) -> np.ndarray:
    """The ids of a Parquet folder in file order, int64.

    Raises:
        ArtifactError: they do not ascend strictly, so one stands twice or the folder is not sorted.
    """
    ids: np.ndarray = storage.read_table(folder, [id_column])[id_column].to_numpy().astype(np.int64)
    wrong = np.flatnonzero(ids[1:] <= ids[:-1])
    if len(wrong):
        raise ArtifactError(f"{folder}: {id_column} {int(ids[wrong[0] + 1])} follows {int(ids[wrong[0]])}; ids must "
                            "ascend and be unique; build the folder's artifact again")
    return ids


def write_part(out: ArtifactDir, folder: str, number: int, table: pa.Table, **options: Any) -> None:
    """``folder/part-NNNNN.parquet`` of the artifact; equal tables give equal bytes."""
    out.write_table(f"{folder}/part-{number:05d}.parquet", table.combine_chunks(), row_group_size=10_000,
                    compression="zstd", **options)


def count_rows(storage: Storage, folder: str) -> int:
    """Rows of a Parquet folder, from the files' footers."""
    return sum(pq.read_metadata(storage.path(file), filesystem=storage.filesystem).num_rows
               for file in storage.files(folder))


class _Held:
    """An actor whose constructor's own error waits for the first batch: Ray tells a task's error whole, an actor's not."""

    def __init__(self, actor: Callable[..., Actor], arguments: Mapping[str, Any]) -> None:
        self._error: MentorecError | None = None
        try:
            self._actor = actor(**arguments)
        except MentorecError as exc:
            self._error = exc

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self._error is not None:
            raise self._error
        return self._actor(batch)


def _drop_done(batch: pa.Table, done_ref: Any, id_column: str) -> pa.Table:
    """The rows whose ids are not in the ascending array behind ``done_ref``."""
    import ray

    done, ids = ray.get(done_ref), batch[id_column].to_numpy()
    place = np.minimum(np.searchsorted(done, ids), len(done) - 1)
    return batch.filter(pa.array(done[place] != ids))


def _nothing_to_filter() -> type[Any]:
    """A checkpoint manager that plans no filter.

    Ray's own filter actor takes a whole CPU for the length of the run, next to the repartition's: on two CPUs a
    resumed run would wait for ever. :func:`_drop_done` filters inside the reading tasks instead.
    """
    from ray.data.checkpoint.checkpoint_filter import CheckpointManager

    class NothingToFilter(CheckpointManager):
        def load_checkpoint(self, data_file_dir: str | None = None,
                            data_file_filesystem: Any = None) -> tuple[None, int]:
            return None, 0

    return NothingToFilter


def _actor_resources(execution: ActorExecution) -> dict[str, Any]:
    """CPUs and GPUs per actor; the CPUs shrink so that one is left for the tasks that feed the actors."""
    import ray

    total = ray.cluster_resources()
    wanted, there = execution.actors * execution.num_gpus, total.get("GPU", 0.0)
    if wanted > there:
        raise ResourceError(f"execution: {execution.actors} actors with num_gpus={execution.num_gpus:g} ask for {wanted:g} "
                            f"GPUs, the cluster has {there:g}; lower actors or num_gpus")
    spare = max(0.0, total.get("CPU", 1.0) - 1.0) / execution.actors
    resources: dict[str, Any] = {"num_cpus": math.floor(min(execution.num_cpus, spare) * 1000) / 1000}
    return resources | ({"num_gpus": execution.num_gpus} if execution.num_gpus else {})


@contextmanager
def _our_errors(label: str) -> Iterator[None]:
    """Raise the MentorecError behind Ray's error, where there is one."""
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayError as exc:
        cause: BaseException | None = exc
        while cause is not None:
            original = getattr(cause, "cause", None) if isinstance(cause, ray.exceptions.RayTaskError) else None
            for candidate in (cause, original):
                if isinstance(candidate, MentorecError) and not isinstance(candidate, ray.exceptions.RayError):
                    raise candidate from exc
            cause = cause.__cause__ or original
        if isinstance(exc, ray.exceptions.ActorDiedError):
            raise ResourceError(f"{label}: an actor died and its block could not be done elsewhere: "
                                f"{' '.join(str(exc).split())[:300]}; the saved blocks are kept for the next run") from exc
        raise


@contextmanager
def _progress_lines(storage: Storage, out: ArtifactDir, block_rows: int, num_rows: int, label: str) -> Iterator[None]:
    """Now and then a line on the blocks saved so far; a terminal shows Ray's own bars instead."""
    if is_quiet() or sys.stderr.isatty():
        yield
        return
    finished = threading.Event()

    def report() -> None:
        while not finished.wait(_PROGRESS_SECONDS):
            saved = sum(not name.endswith(".pending.parquet") for name in storage.names(out.relative(_DONE)))
            say(f"{label}: about {min(num_rows, saved * block_rows):,} of {num_rows:,} rows saved")

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def explode(table: pa.Table, lists: list[str]) -> pa.Table:
    """One row per entry of the aligned list columns ``lists``; the other columns are repeated."""
    parents = pc.list_parent_indices(table[lists[0]].combine_chunks())
    return pa.table({name: pc.list_flatten(table[name]) if name in lists else table[name].take(parents)
                     for name in table.column_names})
