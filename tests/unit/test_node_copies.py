"""Copies on a node, of a local folder that stands for an object store."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from cluster import node_copies
from cluster.node_copies import NodeCopies
from configs.errors import StorageError

LOCAL = pafs.LocalFileSystem()


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


def test_the_least_recently_used_go_when_the_bound_is_passed(tmp_path: Path) -> None:
    copies = NodeCopies("", 2500)
    sources = [_source(tmp_path, name, 1000) for name in "abc"]
    first, second = (copies.get(LOCAL, source) for source in sources[:2])
    _unused_for(first.parent, 3000)
    _unused_for(second.parent, 4000)
    third = copies.get(LOCAL, sources[2])
    assert (first.exists(), second.exists(), third.exists()) == (True, False, True)
    assert copies.get(LOCAL, sources[1]).read_bytes() == b"x" * 1000


def test_use_puts_eviction_off_and_what_was_asked_for_just_now_stays(tmp_path: Path) -> None:
    copies = NodeCopies("", 10)
    old, new = _source(tmp_path, "old", 100), _source(tmp_path, "new", 100)
    copy = copies.get(LOCAL, old)
    _unused_for(copy.parent, 3000)
    assert copies.get(LOCAL, old) == copy
    copies.get(LOCAL, new)
    assert copy.exists()


def test_what_a_dead_process_left_half_copied_goes_after_a_day(tmp_path: Path, cache: Path) -> None:
    source = _source(tmp_path, "a", 1)
    for name, age in (("unfinished-dead", 90_000), ("unfinished-alive", 3000)):
        (cache / name).mkdir(parents=True)
        _unused_for(cache / name, age)
    copy = NodeCopies("", 2**30).get(LOCAL, source)
    assert sorted(p.name for p in cache.iterdir()) == sorted(["unfinished-alive", copy.parent.name])


def test_stores_do_not_share_copies(tmp_path: Path) -> None:
    source = _source(tmp_path, "a", 1)
    assert NodeCopies("here", 100).get(LOCAL, source) != NodeCopies("there", 100).get(LOCAL, source)


def test_a_node_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(node_copies, "NODE_CACHE", tmp_path / "file" / "cache")
    message = r"a cannot be copied to .*/file/cache on this node: a part of the path is a file; .*set TMPDIR"
    with pytest.raises(StorageError, match=message):
        NodeCopies("", 100).get(LOCAL, _source(tmp_path, "a", 1))
