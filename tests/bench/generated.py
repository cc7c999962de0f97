"""Data sets of any shape for timing: popular items, short histories, no text and no signal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.config import StorageConfig
from cluster.storage import Storage
from models.sequences import Cases, Sequences
from pipeline.store.arrow import write_arrow
from pipeline.store.artifacts import Artifact, StageKey, begin, digest_ids, find
from pipeline.store.columns import HISTORY, ITEM_ID, ITEM_IDX, ITEMS, TARGET, USER_ID, USER_IDX

POPULARITY = 0.8
"""Exponent of the items' power law."""
SHORTEST = 3


def draw(users: int, items: int, mean_length: float, seed: int = 0) -> Cases:
    """One target and a history of at least two items for each user; every item can be drawn, not every one is."""
    rng = np.random.default_rng(seed)
    lengths = SHORTEST - 1 + rng.geometric(1 / (mean_length - SHORTEST + 1), users) - 1
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    share = np.cumsum((np.arange(items) + 1.0 + items / 500) ** -POPULARITY)
    drawn = np.searchsorted(share / share[-1], rng.random(users + offsets[-1])).astype(np.int32) + 1
    return Cases(np.arange(users), Sequences(drawn[users:], offsets), drawn[:users])


def prepared(root: Path, users: int, items: int, mean_length: float) -> Artifact:
    """A `prepare` artifact of :func:`draw`, whose catalogue holds all items: what training reads, made once."""
    storage = Storage.from_config(StorageConfig(uri=str(root)))
    stage_key = StageKey("prepare", 0, {"users": users, "items": items, "mean_length": mean_length})
    if (found := find(storage, stage_key)) is not None:
        return found
    out = begin(storage, stage_key)
    cases = draw(users, items, mean_length)
    storage.make_dir(out.folder)
    lists = pa.LargeListArray.from_arrays(pa.array(cases.histories.offsets), pa.array(cases.histories.values))
    index = pa.array(cases.users)
    write_arrow(out.path("train.arrow"), pa.table({USER_IDX: index, ITEMS: lists}))
    for name in ("validation.arrow", "test.arrow"):
        write_arrow(out.path(name), pa.table({USER_IDX: index, HISTORY: lists, TARGET: cases.targets}))
    item_ids = pa.array([f"B{number:09d}" for number in range(items)])
    out.write_table("items.parquet", pa.table({ITEM_IDX: np.arange(1, items + 1, dtype=np.int32), ITEM_ID: item_ids}))
    out.write_table("users.parquet", pa.table({USER_IDX: index, USER_ID: index.cast(pa.string())}))
    interactions = users + len(cases.histories.values)
    return out.commit({"num_in": interactions, "num_out": interactions, "num_rejected": 0}, {}, digest_ids(item_ids))
