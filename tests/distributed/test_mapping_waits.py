"""A cluster whose CPUs other work holds: the map waits for them, says so once, and is done when they are free."""

from __future__ import annotations

import threading
import time

import numpy as np
import pyarrow as pa
import pytest

from cluster.config import ActorExecution
from cluster.storage import Storage
from pipeline.store import artifacts, rows
from pipeline.store.artifacts import StageKey
from pipeline.work import mapping


class Same:
    def __call__(self, batch: pa.Table) -> pa.Table:
        return batch


def test_work_that_waits_for_others_says_so(storage: Storage, ray_cluster: None, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    import ray

    monkeypatch.setattr(mapping, "_SILENT_S", 2.0)
    ids = np.arange(10)
    storage.write_table("in/part-0.parquet", pa.table({"id": ids}))
    out = artifacts.begin(storage, StageKey("demo", 1, {}))

    @ray.remote(num_cpus=2)
    class Other:
        def here(self) -> None:
            pass

    other = Other.remote()
    ray.get(other.here.remote())
    said: list[str] = []

    def leave() -> None:
        while not said:
            said.extend(line for line in capsys.readouterr().err.splitlines() if "nothing is done" in line)
            time.sleep(0.2)
        ray.kill(other)

    leaving = threading.Thread(target=leave, daemon=True)
    leaving.start()
    mapping.map_rows(storage, "in", out, actor=Same, arguments={}, id_column="id", columns=["id"], num_rows=len(ids),
                     execution=ActorExecution(actors=1, num_cpus=0.5), label="demo")
    leaving.join()
    assert said == ["demo: nothing is done yet; 0 of the cluster's 2 CPUs are free: where other jobs hold them, this "
                    "waits for those (`ray status` tells who)"]
    assert pa.concat_tables(rows.sorted_parts(out, "id", ids, 20))["id"].to_pylist() == ids.tolist()
