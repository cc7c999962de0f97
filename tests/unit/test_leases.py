"""Leases: one holder at a time, dead holders buried, heartbeats that keep a slow one alive."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import ArtifactError, StorageError
from pipeline.store import leases
from pipeline.store.artifacts import Artifact, StageKey, begin, find, find_or_begin
from pipeline.store.leases import LeaseTaken, take

PATH = "work/lease.json"
DEAD = leases.mine() | {"pid": 2**22 + 1, "created": 0.0}
ELSEWHERE, CONTAINER = {"host": "elsewhere"}, {"pid_namespace": "pid:[1]"}
KEY = StageKey("demo", 1, {})


def _storage(root: Path, timeout_s: float = 300.0) -> Storage:
    return Storage.from_config(StorageConfig(uri=str(root), lease_timeout_s=timeout_s))


def test_one_holder_at_a_time(storage: Storage) -> None:
    lease = take(storage, PATH, "the work")
    with pytest.raises(LeaseTaken, match=f"the work: process {os.getpid()} on .*; wait for it, stop it, or delete"):
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


@pytest.mark.parametrize(("place", "lives", "ahead_s"), [
    (ELSEWHERE, False, -3.0), (ELSEWHERE, False, 3600.0), (ELSEWHERE, True, -3.0), (CONTAINER, True, -3.0)])
def test_a_holder_out_of_sight_that_gives_no_sign_is_waited_for_and_followed(
        tmp_path: Path, place: dict[str, str], lives: bool, ahead_s: float) -> None:
    """Also if its clock was an hour ahead of this one's."""
    storage, told = _storage(tmp_path, timeout_s=5), list[LeaseTaken]()
    there = leases.mine() | place | {"beat": time.time() + ahead_s}
    storage.write_json(PATH, there)
    beat = threading.Timer(0.7, lambda: storage.write_json(PATH, there | {"beat": time.time()}))
    if lives:
        beat.start()
        with pytest.raises(LeaseTaken, match=f"on {there['host']} is at work"):
            leases.take_from_the_dead(storage, PATH, "the work", told.append)
        beat.join()
    else:
        begun = time.time()
        leases.take_from_the_dead(storage, PATH, "the work", told.append).release()
        assert min(there["beat"], begun) + 4.9 < time.time() < begun + 60
    assert [taken.owner["host"] for taken in told] == [there["host"]]


@pytest.mark.skipif(not Path("/proc/self/ns/pid").is_symlink(), reason="no PID namespaces here")
def test_a_holder_in_another_container_of_the_same_hostname_lives_by_its_heartbeat(monkeypatch: pytest.MonkeyPatch
                                                                                   ) -> None:
    """Its process id is nobody's here."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    assert leases.mine()["pid_namespace"] == os.readlink("/proc/self/ns/pid")
    beats = [(CONTAINER, 3.0, True), (CONTAINER, 6.0, False), ({}, 3.0, False)]
    for place, ago_s, lives in beats:
        assert leases.alive(DEAD | place | {"beat": now - ago_s}, 5) is lives


def test_a_holder_of_this_host_is_not_waited_for(storage: Storage) -> None:
    lease = take(storage, PATH, "the work")
    with pytest.raises(LeaseTaken):
        leases.take_from_the_dead(storage, PATH, "the work", lambda taken: pytest.fail("it waits"))
    lease.release()


def test_a_heartbeat_keeps_a_holder_of_another_host_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = _storage(tmp_path, timeout_s=5)
    object.__setattr__(storage, "lease_timeout_s", 0.3)
    lease = take(storage, PATH, "the work")
    seen, deadline = storage.read_json(PATH), time.monotonic() + 20
    while (later := storage.read_json(PATH))["beat"] <= seen["beat"] + 0.2:
        assert time.monotonic() < deadline, "no heartbeat"
        time.sleep(0.02)
    lease.release()
    assert later["token"] == seen["token"]
    monkeypatch.setattr(time, "time", lambda: later["beat"] + 0.2)
    assert leases.alive(later | ELSEWHERE, 0.3) and not leases.alive(seen | ELSEWHERE, 0.3)


@pytest.mark.parametrize("error", [OSError("AWS Error ACCESS_DENIED"), StorageError("no room"), RuntimeError("odd")])
def test_a_heart_that_missed_a_beat_goes_on(storage: Storage, monkeypatch: pytest.MonkeyPatch,
                                            error: Exception) -> None:
    object.__setattr__(storage, "lease_timeout_s", 0.3)
    look, missed = leases._read, threading.Event()

    def fails(*args: Any) -> Any:
        missed.set()
        raise error

    lease = take(storage, PATH, "the work")
    monkeypatch.setattr(leases, "_read", fails)
    assert missed.wait(20)
    monkeypatch.setattr(leases, "_read", look)
    seen, deadline = storage.read_json(PATH)["beat"], time.monotonic() + 20
    while storage.read_json(PATH)["beat"] == seen and time.monotonic() < deadline:
        time.sleep(0.05)
    lease.release()
    assert time.monotonic() < deadline


def test_a_holder_that_was_taken_over_knows_it_and_gives_nothing_back(storage: Storage) -> None:
    lease = take(storage, PATH, "the work")
    storage.write_json(PATH, leases.mine())
    assert not lease.held()
    lease.release()
    assert storage.exists(PATH)


def _object_store(root: Path) -> Storage:
    """A storage whose paths are not this machine's: no locks, as in a bucket."""
    root.mkdir(exist_ok=True)
    return Storage(pafs.SubTreeFileSystem(str(root), pafs.LocalFileSystem()), "prefix")


def _take(root: Path, start: Any, results: Any) -> None:
    storage = _object_store(root)
    start.wait()
    try:
        lease = take(storage, PATH, "the work")
    except LeaseTaken:
        results.put(False)
        return
    results.put(lease.held())


def test_of_processes_that_race_in_an_object_store_one_takes_the_lease(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "SETTLE_S", 2.0)  # a busy machine may stall a process for a second
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(4), context.Queue()
    racers = [context.Process(target=_take, args=(tmp_path, start, results)) for _ in range(4)]
    for racer in racers:
        racer.start()
    assert sorted(results.get(timeout=120) for _ in racers) == [False, False, False, True]
    for racer in racers:
        racer.join()


def test_who_stalls_before_the_write_takes_over_and_the_other_cannot_commit(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a store without conditional writes: two work, one artifact comes of it, and it is whole."""
    monkeypatch.setattr(leases, "SETTLE_S", 0.05)
    storage = _object_store(tmp_path)
    first = begin(storage, KEY)
    first.write_json("who.json", "first")
    look, seen = leases._read, []

    def looked_too_early(*args: Any) -> Any:
        """The second looked before the first wrote, and writes only now."""
        seen.append(args)
        return None if len(seen) == 1 else look(*args)

    monkeypatch.setattr(leases, "_read", looked_too_early)
    second = begin(storage, KEY)
    second.write_json("who.json", "second")
    with pytest.raises(ArtifactError, match="another process has taken this work over .*run the same command again"):
        first.commit({"num_out": 1})
    first.release()
    assert second.lease is not None and second.lease.held()
    second.commit({"num_out": 1})
    found = find(storage, KEY)
    assert found is not None and found.read_json("who.json") == "second"


def test_a_lease_deleted_by_hand_keeps_nobody_from_committing(storage: Storage) -> None:
    out = begin(storage, KEY)
    storage.delete(f"{KEY.folder}/lease.json")
    assert out.commit({"num_out": 1}).fingerprint == KEY.fingerprint


def _count(root: str, number: int, start: Any, results: Any) -> None:
    storage = _storage(Path(root))
    start.wait()
    told: list[LeaseTaken] = []
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
