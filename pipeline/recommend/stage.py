"""Sequences → recommended lists: resumable, in this process or by Ray actors on all nodes.

An artifact like those of a run: ``lists/part-*.parquet`` in the order of the sequences, addressed by the model, the
sequences and the filter, so a killed command goes on and a finished one is not computed again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.ragged import offsets_of
from models.sequences import Sequences
from pipeline.api.filters import Filter
from pipeline.api.loading import of_artifact, of_folder
from pipeline.api.recommender import Recommender
from pipeline.recommend.config import RecommendConfig
from pipeline.recommend.sequences import NamedHistories
from pipeline.store import rows
from pipeline.store.arrow import row_lengths
from pipeline.store.artifacts import Artifact, ArtifactDir
from pipeline.store.columns import ITEMS, ROW_ID, USER_ID
from pipeline.work.mapping import map_rows
from pipeline.work.memory import keep_freed_memory
from pipeline.work.progress import say, took

SEQUENCES = f"{rows.WORK}/sequences"
LISTS = "lists"
SCORES, POPULAR, UNKNOWN = "scores", "popular", "unknown"
"""Columns: scores of the list; whether popularity answers; items that the model does not know."""
COLUMNS = {LISTS: (ROW_ID, USER_ID, ITEMS, SCORES, POPULAR, UNKNOWN)}
PART_ROWS = 50_000
"""Lists per file."""


@dataclass(frozen=True)
class Model:
    """The recommender, to be loaded by whoever ranks. Picklable."""

    source: Artifact | Path
    """A `train` artifact, or an exported folder."""

    def load(self) -> Recommender:
        return of_artifact(self.source) if isinstance(self.source, Artifact) else of_folder(self.source)


class RecommendActor:
    """Holds the model: batches of sequences → lists."""

    def __init__(self, model: Model, k: int, chosen: Filter) -> None:
        keep_freed_memory()
        self._recommender, self._k, self._filter = model.load(), k, chosen

    def __call__(self, batch: pa.Table) -> pa.Table:
        found = self._recommender.recommend_indexed(_sequences(batch), batch[UNKNOWN].to_numpy(), self._k, self._filter)
        there_NK = found.items_NK > 0
        offsets = pa.array(offsets_of(there_NK.sum(1)).astype(np.int32))
        return pa.table({
            ROW_ID: batch[ROW_ID], USER_ID: batch[USER_ID],
            ITEMS: pa.ListArray.from_arrays(offsets, pa.array(found.items_NK[there_NK])),
            SCORES: pa.ListArray.from_arrays(offsets, pa.array(found.scores_NK[there_NK])),
            POPULAR: pa.array(found.popular_N), UNKNOWN: batch[UNKNOWN]})


def recommend(config: RecommendConfig, model: Model, asked: NamedHistories, chosen: Filter, out: ArtifactDir
              ) -> Artifact:
    """Answer every sequence. Ray must be running where ``config.execution.actors`` is 1 or more.

    Raises:
        DataError: the filter lets nothing through.
        ArtifactError: the model is damaged.
        ResourceError: as :func:`pipeline.work.mapping.map_rows`.
    """
    ids = np.arange(len(asked.names))
    _write_sequences(asked, out, config.execution.block_rows)
    started = time.perf_counter()
    map_rows(out.storage, out.relative(SEQUENCES), out, actor=RecommendActor,
             arguments={"model": model, "k": config.k, "chosen": chosen}, id_column=ROW_ID,
             columns=[ROW_ID, USER_ID, ITEMS, UNKNOWN], num_rows=len(ids), execution=config.execution,
             label="recommend")
    say(f"recommend: {took(len(ids), 'users', time.perf_counter() - started)}")
    stats = dict.fromkeys(("unknown", "with_unknown", "popular", "short"), 0)
    for number, part in enumerate(rows.sorted_parts(out, ROW_ID, ids, PART_ROWS)):
        rows.write_part(out, LISTS, number, part)
        for name, values in (("unknown", part[UNKNOWN]), ("with_unknown", pc.greater(part[UNKNOWN], 0)),
                             ("popular", part[POPULAR]), ("short", pc.less(pc.list_value_length(part[ITEMS]),
                                                                           config.k))):
            stats[name] += int(pc.sum(values).as_py() or 0)
    rows.remove_work(out)
    return out.commit({"num_in": len(ids), "num_out": len(ids), "num_rejected": 0}, COLUMNS, info=stats)


def _write_sequences(asked: NamedHistories, out: ArtifactDir, part_rows: int) -> None:
    """What the actors read; parts of an earlier call may have been of another size."""
    out.storage.delete(out.relative(SEQUENCES))
    offsets = asked.sequences.offsets
    for number, start in enumerate(range(0, len(asked.names), part_rows)):
        stop = min(start + part_rows, len(asked.names))
        inner = pa.array((offsets[start : stop + 1] - offsets[start]).astype(np.int32))
        values = pa.array(asked.sequences.values[offsets[start] : offsets[stop]])
        columns: dict[str, Any] = {
            ROW_ID: np.arange(start, stop), USER_ID: pa.array(asked.names[start:stop], pa.string()),
            ITEMS: pa.ListArray.from_arrays(inner, values), UNKNOWN: asked.unknown_N[start:stop]}
        out.write_table(f"{SEQUENCES}/part-{number:05d}.parquet", pa.table(columns))


def _sequences(batch: pa.Table) -> Sequences:
    column = batch[ITEMS].combine_chunks()
    return Sequences(column.flatten().to_numpy().astype(np.int32), offsets_of(row_lengths(column)))
