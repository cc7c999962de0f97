"""Leases: one holder at a time, dead holders buried, heartbeats that keep a slow one alive."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.config import StorageConfig
from cluster.storage import Storage
from pipeline.store import leases
from pipeline.store.artifacts import Artifact, StageKey, find_or_begin
from pipeline.store.leases import Taken, take

PATH = "work/lease.json"
DEAD = leases.mine() | {"pid": 2**22 + 1, "created": 0.0}
KEY = StageKey("demo", 1, {})


def _storage(root: Path, timeout_s: float = 300.0) -> Storage:
    return Storage.from_config(StorageConfig(uri=str(root), lease_timeout_s=timeout_s))


def test_one_holder_at_a_time(storage: Storage) -> None:
    lease = take(storage, PATH, "the work")
    with pytest.raises(Taken, match=f"the work: process {os.getpid()} on .*; wait for it, stop it, or delete"):
        take(storage, PATH, "the work")
    lease.release()
    lease.release()
    take(storage, PATH, "the work").release()
    assert storage.names("work") == ["lease.json.guard"]


@pytest.mark.parametrize("content", [json.dumps(DEAD), "", "[1]", "{", json.dumps({"host": "elsewhere", "beat": 0})])
def test_a_dead_or_damaged_lease_is_taken_over(storage: Storage, content: str) -> None:
    storage.write_bytes(PATH, content.encode())
    lease = take(storage, PATH, "the work")
    assert lease.held()
    lease.release()
    assert storage.names("work") == ["lease.json.guard"]


def test_a_heartbeat_keeps_a_holder_of_another_host_alive(tmp_path: Path) -> None:
    storage = _storage(tmp_path, timeout_s=5)
    object.__setattr__(storage, "lease_timeout_s", 0.3)
    lease = take(storage, PATH, "the work")
    seen = storage.read_json(PATH)
    time.sleep(0.5)
    later = storage.read_json(PATH)
    lease.release()
    elsewhere = {"host": "elsewhere"}
    assert later["beat"] > seen["beat"] + 0.2 and later["token"] == seen["token"]
    assert leases.alive(later | elsewhere, 0.3) and not leases.alive(seen | elsewhere, 0.3)


def test_a_holder_that_was_taken_over_knows_it_and_gives_nothing_back(storage: Storage) -> None:
    lease = take(storage, PATH, "the work")
    storage.write_json(PATH, leases.mine())
    assert not lease.held()
    lease.release()
    assert storage.exists(PATH)


def _count(root: str, number: int, start: Any, results: Any) -> None:
    storage = _storage(Path(root))
    start.wait()
    told: list[Taken] = []
    found = find_or_begin(storage, KEY, False, told.append)
    if isinstance(found, Artifact):
        results.put(("found", found.read_json("who.json")))
        return
    found.write_json("who.json", number)
    time.sleep(0.05)
    results.put(("built", found.commit({"num_out": 1}).read_json("who.json")))


def test_of_processes_that_race_for_one_artifact_one_builds_and_the_others_find(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty races of four, each over the lease of a dead process."""
    monkeypatch.setattr(leases, "_POLL_S", 0.05)
    context = multiprocessing.get_context("fork")
    for race in range(20):
        root = tmp_path / str(race)
        _storage(root).write_json(f"{KEY.folder}/lease.json", DEAD)
        start, results = context.Barrier(4), context.Queue()
        racers = [context.Process(target=_count, args=(str(root), n, start, results)) for n in range(4)]
        for racer in racers:
            racer.start()
        outcomes = [results.get(timeout=120) for _ in racers]
        for racer in racers:
            racer.join()
        assert sorted(kind for kind, _ in outcomes) == ["built", "found", "found", "found"]
        assert len({who for _, who in outcomes}) == 1
        assert not _storage(root).exists(f"{KEY.folder}/lease.json")
