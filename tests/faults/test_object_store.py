"""An object store of 80 MB through which more passes, in or out: every row arrives."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.config import ActorExecution, StorageConfig
from cluster.storage import Storage
from pipeline.store import artifacts, rows
from pipeline.store.artifacts import StageKey
from pipeline.work.mapping import map_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
STORE_BYTES = 80 * 10**6
WIDE_ROWS, WIDE_BYTES = 80, 2**22
READ_ROWS, READ_BYTES, READ_FILES = 60_000, 2000, 3


class Widen:
    """Makes four megabytes of each row."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        ids = batch["id"].to_pylist()
        return pa.table({"id": batch["id"], "wide": [bytes([row]) * WIDE_BYTES for row in ids]})


class Slow:
    """Is behind with its work, so that readers wait for it; keeps the ids."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        time.sleep(0.05)
        return batch.select(["id"])


def widen(storage: Storage) -> bool:
    """Whether every row has its bytes."""
    ids = np.arange(WIDE_ROWS)
    storage.write_table("in/part-0.parquet", pa.table({"id": ids}))
    out = artifacts.begin(storage, StageKey("demo", 1, {}))
    map_rows(storage, "in", out, actor=Widen, arguments={}, id_column="id", columns=["id"], num_rows=len(ids),
             label="demo", execution=ActorExecution(actors=1, num_cpus=0.5, batch_rows=8, block_rows=8))
    return [row for part in rows.sorted_parts(out, "id", ids, 8)
            for row, wide in zip(part["id"].to_pylist(), part["wide"].to_pylist(), strict=True)
            if wide == bytes([row]) * WIDE_BYTES] == ids.tolist()


def read_much(storage: Storage) -> bool:
    """Whether every row arrives where actors leave one CPU for all who read, cut and write."""
    ids = np.arange(READ_ROWS)
    for file, part in enumerate(np.split(ids, READ_FILES)):
        text = [f"{row} {'y' * READ_BYTES}" for row in part]
        storage.write_table(f"in/part-{file}.parquet", pa.table({"id": part, "text": text}))
    out = artifacts.begin(storage, StageKey("demo", 1, {}))
    map_rows(storage, "in", out, actor=Slow, arguments={}, id_column="id", columns=["id", "text"], num_rows=len(ids),
             label="demo", execution=ActorExecution(actors=2, num_cpus=0.5, batch_rows=128, block_rows=1000))
    return pa.concat_tables(rows.sorted_parts(out, "id", ids, 20_000))["id"].to_pylist() == ids.tolist()


def in_a_small_store(work: Any, root: str, answer: Any) -> None:
    """In a process with a Ray of its own; answers with what the work gives, and the store's size."""
    import ray

    from cluster.connect import start

    start({"address": "local", "num_cpus": 2, "include_dashboard": False, "log_to_driver": False,
           "object_store_memory": STORE_BYTES})
    whole = work(Storage.from_config(StorageConfig(uri=root)))
    answer.put((whole, ray.cluster_resources()["object_store_memory"]))
    ray.shutdown()


@pytest.mark.parametrize("work", [widen, read_much])
def test_more_than_it_holds_passes_through(tmp_path: Path, work: Any) -> None:
    processes = multiprocessing.get_context("spawn")
    answer = processes.Queue()
    process = processes.Process(target=in_a_small_store, args=(work, str(tmp_path), answer))
    process.start()
    try:
        assert answer.get(timeout=300) == (True, STORE_BYTES)
    finally:
        process.join(timeout=60)
        process.kill()
