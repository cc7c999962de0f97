"""Rows that pass through Ray, and what becomes of them: id checks, sorted parts, the artifact's own files.

A stage calls ``mapping.map_rows`` (Ray does the work and remembers finished blocks), then :func:`sorted_parts` (the
result in id order, checked to hold every id once), writes its files from that, then :func:`remove_work`.
Everything on the way lives in ``work/`` of the attempt, so the rerun of a killed command finds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from cluster.storage import Storage
from configs.errors import ArtifactError
from pipeline.store.artifacts import ArtifactDir

_FOOTERS_AT_ONCE = 16
WORK = "work"
"""Folder of the attempt for everything that the finished artifact does not hold."""
RAW = f"{WORK}/rows"
"""The blocks that Ray has written, or what a stage made of them: one row per id."""
DONE = f"{WORK}/checkpoint"
"""Ray Data's record of the ids in those blocks."""


def rows_of(folder: str) -> str:
    """The blocks that Ray has written of one map."""
    return f"{folder}/rows"


def checkpoint_of(folder: str) -> str:
    """Ray Data's record of the ids in those blocks."""
    return f"{folder}/checkpoint"


def sorted_parts(out: ArtifactDir, id_column: str, ids: np.ndarray, part_rows: int, folder: str = RAW
                 ) -> Iterator[pa.Table]:
    """The mapped rows in id order, ``part_rows`` at a time; one part is in memory at once, read from those blocks alone
    that may hold some of it.

    What comes out depends on ``ids`` and the rows alone, never on blocks, actors or interruptions.

    Args:
        ids: every id there must be, ascending.
        folder: of the attempt, where the rows are.

    Raises:
        ArtifactError: an id is missing, stands twice, or is none of ``ids``.
    """
    dataset = pads.dataset(out.path(folder), format="parquet", filesystem=out.storage.reader)
    blocks = list(dataset.get_fragments())
    first_F, last_F = _reach(blocks, id_column)
    for start in range(0, len(ids), part_rows):
        expected = ids[start:start + part_rows]
        id_field = pads.field(id_column)
        near = [blocks[i] for i in np.flatnonzero((first_F <= expected[-1]) & (last_F >= expected[0]))]
        part = pads.FileSystemDataset(near, dataset.schema, dataset.format, dataset.filesystem).to_table(
            filter=(id_field >= int(expected[0])) & (id_field <= int(expected[-1])))
        part = part.sort_by(id_column).combine_chunks()
        found = part[id_column].to_numpy()
        if not np.array_equal(found, expected):
            missing = np.setdiff1d(expected, found)
            again = found[1:][found[1:] == found[:-1]]
            raise ArtifactError(
                f"{out.relative(folder)}: {id_column} {int(expected[0])}…{int(expected[-1])}: {len(missing)} missing "
                f"{missing[:3].tolist()}, {len(again)} twice {again[:3].tolist()}; delete the folder {out.folder} and "
                "run again")
        yield part


def _reach(blocks: list[pads.ParquetFileFragment], id_column: str) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest id of each block, from its footer; of one that does not tell, all ids."""
    most = np.iinfo(np.int64)
    first_F, last_F = np.full(len(blocks), most.max), np.full(len(blocks), most.min)
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:  # each is a request or two to an object store
        list(pool.map(pads.ParquetFileFragment.ensure_complete_metadata, blocks))
    for place, block in enumerate(blocks):
        for group in block.row_groups:
            if group.num_rows:
                told = (group.statistics or {}).get(id_column) or {"min": most.min, "max": most.max}
                first_F[place] = min(first_F[place], told["min"])
                last_F[place] = max(last_F[place], told["max"])
    return first_F, last_F


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


def explode(table: pa.Table, lists: list[str]) -> pa.Table:
    """One row per entry of the aligned list columns ``lists``; the other columns are repeated."""
    parents = pc.list_parent_indices(table[lists[0]].combine_chunks())
    return pa.table({name: pc.list_flatten(table[name]) if name in lists else table[name].take(parents)
                     for name in table.column_names})
