"""A replayed pass, parted: the users who are done, and those whose requests must be answered first.

Legend: N users, K requests.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.profile.llm.actor import HISTORY, LEAVES, REFUSALS, USAGE, WANTED
from pipeline.profile.llm.cost import Estimate
from pipeline.profile.llm.ledger import heads_of
from pipeline.profile.llm.refresh import FIRST_PASS
from pipeline.profile.llm.requests import REQUEST
from pipeline.store import rows
from pipeline.store.artifacts import ArtifactDir
from pipeline.store.columns import ANGLE, PROFILE, REASON, USER_IDX
from pipeline.work.ascending import Met

PENDING = "pending.parquet"
"""USER_IDX of those who want answers, ascending."""
_PART_USERS = 5000


def split_pass(out: ArtifactDir, folder: str, users_N: np.ndarray, estimate: Estimate, first: bool) -> dict[str, Any]:
    """Part the rows of a pass; one part of the users is in memory at once.

    Users who are done go to ``rows.RAW``; the others to ``<folder>/PENDING``, their requests to ``<folder>/requests``,
    each once.

    Args:
        folder: of the pass.
        users_N: who was replayed, ascending.
        estimate: of nobody yet.
        first: whether it is the first pass, whose prompts are recorded for a later refresh.

    Returns:
        What ``split.json`` holds.
    """
    usage: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    refused_so_far: Counter[str] = Counter()
    pending: list[np.ndarray] = []
    requests_met = Met(np.uint64)
    for place, part in enumerate(rows.sorted_parts(out, USER_IDX, users_N, _PART_USERS, rows.rows_of(folder))):
        wants = pc.greater(pc.list_value_length(part[WANTED]), 0)
        done, waiting = part.filter(pc.invert(wants)), part.filter(wants)
        usage.update({name: int(pc.sum(done[name]).as_py() or 0) for name in USAGE})
        refusals.update(pc.list_flatten(done[REFUSALS]).to_pylist())
        refused_so_far.update(pc.list_flatten(waiting[REFUSALS]).to_pylist())
        if done.num_rows:
            name = f"{rows.RAW}/{folder.rpartition('/')[2]}-{place:05d}.parquet"
            out.write_table(name, done.select([USER_IDX, ANGLE, PROFILE, REASON]))
        if waiting.num_rows:
            pending.append(waiting[USER_IDX].to_numpy())
            wanted = _wanted(waiting)  # what several users want is asked once
            requests = wanted.take(requests_met.new(heads_of(wanted[REQUEST].to_pylist())))
            out.write_table(f"{folder}/requests/part-{place:05d}.parquet", requests, row_group_size=500,
                            compression="zstd")
            estimate = estimate.plus(waiting, requests)
        if first:
            rows.write_part(out, FIRST_PASS, place, part.select([USER_IDX, ANGLE, HISTORY, LEAVES]))
    out.write_table(f"{folder}/{PENDING}", pa.table({USER_IDX: np.concatenate([*pending, np.zeros(0, np.int64)])}))
    return {"settled": dict(usage), "refusals": dict(refusals), "refused_so_far": dict(refused_so_far),
            "requests": len(requests_met), "estimate": estimate.counts(),
            "pending": sum(map(len, pending))}


def _wanted(users: pa.Table) -> pa.Table:
    """The requests of users, one a row."""
    wanted = pc.list_flatten(users[WANTED]).combine_chunks()
    return pa.Table.from_arrays(wanted.flatten(), names=[field.name for field in wanted.type])
