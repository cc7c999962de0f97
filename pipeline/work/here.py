"""A Parquet folder mapped row by row in this process, without Ray: resumable, every row exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.config import ActorExecution
from cluster.storage import Storage
from pipeline.store.artifacts import ArtifactDir
from pipeline.store.rows import checkpoint_of, rows_of
from pipeline.work.ascending import held
from pipeline.work.progress import Progress

_OURS = "here-"
"""How the blocks are named that this module has written; Ray's have other names."""


def map_here(storage: Storage, source: str, out: ArtifactDir, *, actor: Callable[[pa.Table], pa.Table], id_column: str,
             columns: list[str], num_rows: int, execution: ActorExecution, label: str, unit: str, folder: str,
             only: np.ndarray | None) -> None:
    """Map the rows and write a block at a time; each is there whole or not at all. See ``mapping.map_rows``."""
    saved = rows_of(folder)
    forget_blocks(out, folder, of_ray=True)
    names = out.storage.names(out.relative(saved))
    done = np.array([row for name in names for row in out.storage.read_table(
        out.relative(f"{saved}/{name}"), [id_column])[id_column].to_pylist()], np.int64)
    done.sort()
    count, number = len(done), len(names)
    with Progress(label, num_rows, unit, done=count) as progress:
        for block in tables_of(_read(storage, source, columns, id_column, only), execution.block_rows):
            block = block.filter(pa.array(~held(done, block[id_column].to_numpy())))
            if not block.num_rows:
                continue
            mapped = []
            for start in range(0, block.num_rows, execution.batch_rows):
                mapped.append(actor(block.slice(start, execution.batch_rows)))
                count += mapped[-1].num_rows
                progress.update(count)
            sink = pa.BufferOutputStream()
            pq.write_table(pa.concat_tables(mapped), sink)
            out.storage.write_bytes(out.relative(f"{saved}/{_OURS}{number:05d}.parquet"), sink.getvalue())
            number += 1


def _read(storage: Storage, source: str, columns: list[str], id_column: str, only: np.ndarray | None
          ) -> Iterator[pa.RecordBatch]:
    for batch in storage.read_folder(source, columns):
        yield batch if only is None else batch.filter(pa.array(held(only, batch[id_column].to_numpy())))


def forget_blocks(out: ArtifactDir, folder: str, of_ray: bool) -> None:
    """Remove the blocks of a call that was cut off and mapped by Ray, or by its own process (``of_ray`` false): where
    and how rows are mapped may change from call to call, and each way knows its own blocks alone."""
    saved = rows_of(folder)
    for name in out.storage.names(out.relative(saved)):
        if name.startswith(_OURS) != of_ray:
            out.storage.delete(out.relative(f"{saved}/{name}"))
    if of_ray:
        out.storage.delete(out.relative(checkpoint_of(folder)))


def tables_of(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The rows of the batches, ``rows`` to a table; fewer in the last."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        while sum(part.num_rows for part in waiting) >= rows:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, rows)
            waiting = table.slice(rows).to_batches()
    if sum(part.num_rows for part in waiting):
        yield pa.Table.from_batches(waiting)
