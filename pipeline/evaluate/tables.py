"""The tables of an evaluation, written shard by shard: the lists of all users are never in memory together.

Legend: N cases, B cases of a shard, K list length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from models.scoring import Ranks
from models.sequences import Cases
from pipeline.evaluate.definition import (
    HISTORY_LENGTH,
    RANKS,
    TARGET_COUNT,
    TOP,
    TOP_LISTS,
    TOP_UNFILTERED,
)
from pipeline.store.artifacts import ArtifactDir
from pipeline.store.columns import RANK, RANK_UNFILTERED, TARGET, USER_IDX

_GROUP_ROWS = 2**18
"""Rows of a row group, at least, but for the last."""


def write_tables(out: ArtifactDir, cases: Cases, target_counts_N: np.ndarray, top_k: int, parts: Iterable[Ranks]
                 ) -> tuple[np.ndarray, np.ndarray]:
    """Write what ``parts`` say of the cases, in their order, as it comes.

    Args:
        target_counts_N: training interactions of each case's target.
        top_k: K.
        parts: of all cases, or none at all: tables without rows.

    Returns:
        The ranks under both protocols, int32 [N], seen items removed and not.
    """
    ranks_N, unfiltered_N = (np.zeros(len(cases), np.int32) for _ in range(2))
    lists = pa.list_(pa.field("item", pa.int32()), top_k)
    schema = pa.schema([(USER_IDX, pa.int64()), (TOP, lists), (TOP_UNFILTERED, lists)])
    done = 0
    with out.storage.table_writer(out.relative(TOP_LISTS), schema) as write:
        for start, group in _grouped(parts):
            done = start + len(group.rank)
            ranks_N[start:done], unfiltered_N[start:done] = group.rank, group.rank_unfiltered
            write(pa.table([
                pa.array(cases.users[start:done]),
                *(pa.FixedSizeListArray.from_arrays(pa.array(top.reshape(-1)), type=lists)
                  for top in (group.top, group.top_unfiltered))], schema=schema))
    out.write_table(RANKS, pa.table({
        USER_IDX: cases.users[:done], TARGET: cases.targets[:done], RANK: ranks_N[:done],
        RANK_UNFILTERED: unfiltered_N[:done],
        HISTORY_LENGTH: cases.histories.lengths[:done].astype(np.int32), TARGET_COUNT: target_counts_N[:done]}))
    return ranks_N, unfiltered_N


def _grouped(parts: Iterable[Ranks]) -> Iterator[tuple[int, Ranks]]:
    """The parts joined to row groups, each with the number of cases before it."""
    start, held = 0, list[Ranks]()
    for part in parts:
        held.append(part)
        if sum(len(each.rank) for each in held) >= _GROUP_ROWS:
            yield start, Ranks.joined(held)
            start += sum(len(each.rank) for each in held)
            held = []
    if held:
        yield start, Ranks.joined(held)
