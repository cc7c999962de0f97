"""Rows mapped by Ray's actors: CPUs that others hold are waited for in words, a batch that ends its actor is named."""

from __future__ import annotations

import gc
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.config import ActorExecution
from cluster.storage import Storage
from configs.errors import DataError, ResourceError
from pipeline.store import artifacts, rows
from pipeline.store.artifacts import StageKey
from pipeline.work import attempts, mapping
from pipeline.work.nodes import actor_resources


class Same:
    def __call__(self, batch: pa.Table) -> pa.Table:
        return batch


class Told:
    """Answers with a variable of its process."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        return batch.append_column("told", [[os.environ.get("A_STAGE_S_OWN", "")] * len(batch)])


def test_a_stage_s_runtime_environment_reaches_its_actors_alone(storage: Storage, ray_cluster: None) -> None:
    ids = np.arange(4)
    storage.write_table("in/part-0.parquet", pa.table({"id": ids}))
    for runtime_env, told in (({"env_vars": {"A_STAGE_S_OWN": "yes"}}, "yes"), ({}, "")):
        out = artifacts.begin(storage, StageKey("demo", 1, {"told": told}))
        mapping.map_rows(storage, "in", out, actor=Told, arguments={}, id_column="id", columns=["id"],
                         num_rows=len(ids), label="demo",
                         execution=ActorExecution(actors=1, num_cpus=0.5, runtime_env=runtime_env))
        assert pa.concat_tables(rows.sorted_parts(out, "id", ids, 20))["told"].to_pylist() == [told] * len(ids)


@pytest.mark.parametrize(("asked", "refusal"), [
    ({"resources": {"large_memory": 2.0}}, r"demo: 2 large_memory are asked for, the cluster has 0; .*\.resources"),
    ({"accelerator_type": "H100"}, r"demo: no node has a GPU of type H100; there is none of a known type")])
def test_what_no_node_has_is_told_and_not_waited_for(ray_cluster: None, asked: dict[str, Any], refusal: str) -> None:
    with pytest.raises(ResourceError, match=refusal):
        actor_resources(ActorExecution(num_cpus=0.5, **asked), "demo")
    assert ActorExecution(**asked).ray_options() == asked


def test_a_resource_of_ray_s_own_is_refused_as_a_custom_one() -> None:
    with pytest.raises(ValueError, match="GPU: legal are names of custom resources"):
        ActorExecution(resources={"GPU": 1.0})


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
    ray.get(other.here.remote(), timeout=60)
    said: list[str] = []

    def leave() -> None:
        deadline = time.monotonic() + 60
        while not said and time.monotonic() < deadline:
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


class Deadly:
    def __call__(self, batch: pa.Table) -> pa.Table:
        if 7 in batch["id"].to_pylist():
            os._exit(1)
        return batch


class Refusing:
    def __call__(self, batch: pa.Table) -> pa.Table:
        raise DataError("not this one")


def test_a_stage_that_fails_holds_no_cpus(storage: Storage, ray_cluster: None) -> None:
    """Without a garbage collection of the caller's, and while the error is held."""
    import ray

    storage.write_table("in/part-0.parquet", pa.table({"id": np.arange(10)}))
    out = artifacts.begin(storage, StageKey("demo", 1, {}))
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(DataError, match="^not this one$") as told:
            mapping.map_rows(storage, "in", out, actor=Refusing, arguments={}, id_column="id", columns=["id"],
                             num_rows=10, execution=ActorExecution(actors=2, num_cpus=0.5), label="demo")
        deadline = time.monotonic() + 30
        while (free := ray.available_resources().get("CPU")) != 2 and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        gc.enable()
    assert free == 2
    assert "test_mapping.py" in str(told.value.__cause__), "where it was raised is told"


def test_a_batch_that_ends_its_actor_again_and_again_is_named(storage: Storage, ray_cluster: None) -> None:
    storage.write_table("in/part-0.parquet", pa.table({"id": np.arange(10)}))
    out = artifacts.begin(storage, StageKey("demo", 1, {}))
    with pytest.raises(ResourceError, match="^demo: the batch that begins with id 7 was begun 4 times and its actor"):
        mapping.map_rows(storage, "in", out, actor=Deadly, arguments={}, id_column="id", columns=["id"], num_rows=10,
                         execution=ActorExecution(actors=1, num_cpus=0.5, batch_rows=1, block_rows=1), label="demo")
    saved = [name for name in storage.files("artifacts/demo") if f"/{rows.RAW}/" in name]
    assert saved
    assert 7 not in {row for name in saved for row in storage.read_table(name)["id"].to_pylist()}


class DeadAtStart:
    def __init__(self) -> None:
        os._exit(1)


def test_an_actor_that_dies_each_time_it_starts_ends_the_stage(storage: Storage, ray_cluster: None) -> None:
    storage.write_table("in/part-0.parquet", pa.table({"id": np.arange(4)}))
    out = artifacts.begin(storage, StageKey("demo", 1, {}))
    with pytest.raises(ResourceError, match="^demo: the start of actor [0-9a-f]+ was begun 4 times and its actor died"):
        mapping.map_rows(storage, "in", out, actor=DeadAtStart, arguments={}, id_column="id", columns=["id"],
                         num_rows=4, execution=ActorExecution(actors=1, num_cpus=0.5), label="demo")


class Hanging:
    """Hangs on one row for as long as a file is there."""

    def __init__(self, blocked: str) -> None:
        self._blocked = blocked

    def __call__(self, batch: pa.Table) -> pa.Table:
        while 5 in batch["id"].to_pylist() and os.path.exists(self._blocked):
            time.sleep(0.1)
        return batch


def test_work_that_hangs_is_named_once(storage: Storage, ray_cluster: None, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(mapping, "_SILENT_S", 1.0)
    monkeypatch.setattr(attempts, "_SLOW_S", 3.0)
    storage.write_table("in/part-0.parquet", pa.table({"id": np.arange(10)}))
    out = artifacts.begin(storage, StageKey("demo", 1, {}))
    blocked = tmp_path / "blocked"
    blocked.touch()
    said: list[str] = []

    def release() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not any("has been at work" in line for line in said):
            said.extend(capsys.readouterr().err.splitlines())
            time.sleep(0.2)
        time.sleep(3 * mapping._POLL_S)
        blocked.unlink()

    releasing = threading.Thread(target=release, daemon=True)
    releasing.start()
    mapping.map_rows(storage, "in", out, actor=Hanging, arguments={"blocked": str(blocked)}, id_column="id",
                     columns=["id"], num_rows=10, label="demo",
                     execution=ActorExecution(actors=1, num_cpus=0.5, batch_rows=1, block_rows=1))
    releasing.join()
    said.extend(capsys.readouterr().err.splitlines())
    found = [line for line in said if "has been at work" in line]
    assert len(found) == 1
    assert re.fullmatch(r"demo: warning: the batch that begins with id 5 has been at work on node [\d.]+ for 0 min; no "
                        r"other took longer than \d+ s\. If it hangs, end this command .*", found[0])
    assert pa.concat_tables(rows.sorted_parts(out, "id", np.arange(10), 20))["id"].to_pylist() == list(range(10))
