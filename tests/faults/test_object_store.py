"""An object store of 80 MB through which four times as much passes: every row arrives."""

from __future__ import annotations

import multiprocessing
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

ROWS, ROW_BYTES, STORE_BYTES = 80, 2**22, 80 * 10**6


class Widen:
    """Makes four megabytes of each row."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        ids = batch["id"].to_pylist()
        return pa.table({"id": batch["id"], "wide": [bytes([row]) * ROW_BYTES for row in ids]})


def widen(root: str, answer: Any) -> None:
    """In a process with a Ray of its own; answers with the rows whose bytes are whole, and the store's size."""
    import ray

    from cluster.connect import start

    start({"address": "local", "num_cpus": 2, "include_dashboard": False, "log_to_driver": False,
           "object_store_memory": STORE_BYTES})
    storage = Storage.from_config(StorageConfig(uri=root))
    storage.write_table("in/part-0.parquet", pa.table({"id": np.arange(ROWS)}))
    out = artifacts.begin(storage, StageKey("demo", 1, {}))
    map_rows(storage, "in", out, actor=Widen, arguments={}, id_column="id", columns=["id"], num_rows=ROWS, label="demo",
             execution=ActorExecution(actors=1, num_cpus=0.5, batch_rows=8, block_rows=8))
    whole: list[int] = []
    for part in rows.sorted_parts(out, "id", np.arange(ROWS), 8):
        for row, wide in zip(part["id"].to_pylist(), part["wide"].to_pylist(), strict=True):
            whole += [row] if wide == bytes([row]) * ROW_BYTES else []
    answer.put((whole, ray.cluster_resources()["object_store_memory"]))
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_more_than_it_holds_passes_through(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("spawn")
    answer = processes.Queue()
    process = processes.Process(target=widen, args=(str(tmp_path), answer))
    process.start()
    try:
        assert answer.get(timeout=300) == (list(range(ROWS)), STORE_BYTES)
    finally:
        process.join(timeout=60)
        process.kill()
