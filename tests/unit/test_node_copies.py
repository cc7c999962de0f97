"""Copies on a node, of a local folder that stands for an object store."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from cluster import node_copies
from cluster.node_copies import NodeCopies
from configs.errors import StorageError

LOCAL = pafs.LocalFileSystem()
PROCESSES = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(node_copies, "NODE_CACHE", folder)
    return folder


def _source(tmp_path: Path, name: str, size: int) -> str:
    path = tmp_path / name
    path.write_bytes(b"x" * size)
    return str(path)


def _unused_for(entry: Path, seconds: float) -> None:
    os.utime(entry, (time.time() - seconds,) * 2)


def _asked(copies: NodeCopies, source: str, told: Any, over: Any) -> None:
    copy = copies.get(LOCAL, source)
    told.put(copy)
    over.wait()
    told.put(copy.read_bytes() if copy.exists() else None)


@contextmanager
def _reader(copies: NodeCopies, source: str) -> Iterator[tuple[Path, Any, Any, Any]]:
    """A process that has asked for a copy: its path, the process, what it tells, and what lets it read and end."""
    told, over = PROCESSES.Queue(), PROCESSES.Event()
    process = PROCESSES.Process(target=_asked, args=(copies, source, told, over))
    process.start()
    try:
        yield told.get(timeout=60), process, told, over
    finally:
        process.kill()
        process.join()


def _used(copies: NodeCopies, source: str, seconds_ago: float) -> Path:
    """The copy that a process asked for so long ago and has ended since."""
    with _reader(copies, source) as (copy, *_):
        pass
    _unused_for(copy.parent, seconds_ago)
    return copy


def test_the_least_recently_used_go_when_the_bound_is_passed(tmp_path: Path) -> None:
    copies = NodeCopies("", 2500)
    sources = [_source(tmp_path, name, 1000) for name in "abc"]
    first, second = _used(copies, sources[0], 30), _used(copies, sources[1], 40)
    third = copies.get(LOCAL, sources[2])
    assert (first.exists(), second.exists(), third.exists()) == (True, False, True)
    assert copies.get(LOCAL, sources[1]).read_bytes() == b"x" * 1000


def test_use_by_whatever_process_puts_eviction_off(tmp_path: Path) -> None:
    copies = NodeCopies("", 2500)
    sources = [_source(tmp_path, name, 1000) for name in "abc"]
    first, second = _used(copies, sources[0], 40), _used(copies, sources[1], 30)
    assert _used(copies, sources[0], 20) == first
    copies.get(LOCAL, sources[2])
    assert (first.exists(), second.exists()) == (True, False)


def test_a_copy_that_a_living_process_asked_for_is_never_removed_under_it(tmp_path: Path) -> None:
    copies = NodeCopies("", 10)
    sources = [_source(tmp_path, name, 1000) for name in "abc"]
    with _reader(copies, sources[0]) as (copy, process, told, over):
        _unused_for(copy.parent, 90_000)
        copies.get(LOCAL, sources[1])
        over.set()
        assert told.get(timeout=60) == b"x" * 1000  # opened only now
        process.join()
        copies.get(LOCAL, sources[2])
        assert not copy.exists()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    copies = NodeCopies("", 10)
    with _reader(copies, _source(tmp_path, "a", 1000)) as (copy, process, *_):
        process.kill()
        process.join()
        copies.get(LOCAL, _source(tmp_path, "b", 1000))
        assert not copy.exists()


def _hurry(copies: NodeCopies, sources: list[str], seed: int, told: Any) -> None:
    """Ask, read, forget, as processes that begin and end would."""
    chance, wrong = random.Random(seed), 0
    for _ in range(100):
        source = chance.choice(sources)
        wrong += copies.get(LOCAL, source).read_bytes() != Path(source).read_bytes()
        for lock in node_copies._HELD.values():
            os.close(lock)
        node_copies._HELD.clear()
    told.put(wrong)


def test_processes_that_evict_each_other_all_read_what_they_asked_for(tmp_path: Path, cache: Path) -> None:
    """Room for two copies of six, three processes."""
    copies, told = NodeCopies("", 2500), PROCESSES.Queue()
    sources = [_source(tmp_path, name, 1000 + place) for place, name in enumerate("abcdef")]
    racers = [PROCESSES.Process(target=_hurry, args=(copies, sources, seed, told)) for seed in range(3)]
    for racer in racers:
        racer.start()
    assert [told.get(timeout=120) for _ in racers] == [0, 0, 0]
    for racer in racers:
        racer.join()
    copies.get(LOCAL, _source(tmp_path, "g", 1000))
    assert sum(file.stat().st_size for file in cache.rglob("copy")) <= copies.max_bytes


@pytest.mark.parametrize("max_bytes", [2500, 2**40], ids=["as the bound says", "though the bound is larger"])
def test_old_copies_make_room_on_a_small_disk(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch,
                                              max_bytes: int) -> None:
    """One of 3500 bytes; of the copies there one is held."""
    copy_files = pafs.copy_files

    def copy_files_here(source: str, target: str, **options: Any) -> None:
        used = sum(file.stat().st_size for file in cache.rglob("copy"))
        if used + Path(source).stat().st_size > 3500:
            raise OSError(errno.ENOSPC, "No space left on device")
        copy_files(source, target, **options)

    monkeypatch.setattr(pafs, "copy_files", copy_files_here)
    copies = NodeCopies("", max_bytes)
    held = copies.get(LOCAL, _source(tmp_path, "held", 1000))
    unused = [_used(copies, _source(tmp_path, name, 1000), 40) for name in "ab"]
    assert copies.get(LOCAL, _source(tmp_path, "c", 1500)).stat().st_size == 1500
    assert (held.exists(), *(copy.exists() for copy in unused)) == (True, False, False)
    with pytest.raises(StorageError, match="d cannot be copied to .*: the disk is full .*; set TMPDIR to a disk with"):
        copies.get(LOCAL, _source(tmp_path, "d", 1500))


def _copied_until_killed(copies: NodeCopies, source: str, told: Any) -> None:
    def never_ends(*_: Any, **__: Any) -> None:
        told.put(True)
        time.sleep(600)

    pafs.copy_files = never_ends
    copies.get(LOCAL, source)


def test_what_a_killed_process_left_half_copied_goes_and_what_one_is_copying_stays(tmp_path: Path, cache: Path) -> None:
    copies, told = NodeCopies("", 2**30), PROCESSES.Queue()
    process = PROCESSES.Process(target=_copied_until_killed, args=(copies, _source(tmp_path, "a", 1), told))
    process.start()
    try:
        assert told.get(timeout=60)
        [unfinished] = cache.iterdir()
        first = copies.get(LOCAL, _source(tmp_path, "b", 1)).parent
        assert set(cache.iterdir()) == {unfinished, first}
    finally:
        process.kill()
        process.join()
    second = copies.get(LOCAL, _source(tmp_path, "c", 1)).parent
    assert set(cache.iterdir()) == {first, second}


def test_stores_do_not_share_copies(tmp_path: Path) -> None:
    source = _source(tmp_path, "a", 1)
    assert NodeCopies("here", 100).get(LOCAL, source) != NodeCopies("there", 100).get(LOCAL, source)


def test_a_node_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(node_copies, "NODE_CACHE", tmp_path / "file" / "cache")
    message = r"a cannot be copied to .*/file/cache on this node: a part of the path is a file; .*set TMPDIR"
    with pytest.raises(StorageError, match=message):
        NodeCopies("", 100).get(LOCAL, _source(tmp_path, "a", 1))
