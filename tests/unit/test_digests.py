"""Content digests: one changed byte is another digest; unchanged files are not read again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from cluster.storage import Storage
from configs.errors import DataError
from pipeline.store import digests
from pipeline.store.digests import CACHE_FILE, DigestCache, digest_file


def write_settled(path: Path, data: bytes) -> None:
    """A file that looks old enough to be remembered."""
    path.write_bytes(data)
    os.utime(path, (1_000_000, 1_000_000))


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_SETTLED_NS", -(10**12))  # whatever the clock does meanwhile


def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []
    original = digests.digest_file

    def counting(path: Path) -> str:
        seen.append(path)
        return original(path)

    monkeypatch.setattr(digests, "digest_file", counting)
    return seen


def test_digest_is_blake2b_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 3_000_000)
    assert digest_file(path) == hashlib.blake2b(b"x" * 3_000_000, digest_size=16).hexdigest()


def test_second_look_does_not_read(tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_settled(path, b"one")
    seen = reads(monkeypatch)
    first = DigestCache(storage).files([path])[0]
    assert DigestCache(storage).files([path])[0] == first
    assert seen == [path]


def test_one_changed_byte_of_same_size_is_seen(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "a"
    write_settled(path, b"one")
    first, changed = DigestCache(storage).files([path])[0], path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == changed:  # by a clock that may be coarse
        write_settled(path, b"onf")  # same size and modification time; the change time differs
    assert DigestCache(storage).files([path])[0] != first


def test_replaced_file_with_old_times_is_seen(tmp_path: Path, storage: Storage) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    write_settled(path, b"one")
    write_settled(other, b"two")
    first = DigestCache(storage).files([path])[0]
    os.replace(other, path)
    assert DigestCache(storage).files([path])[0] == hashlib.blake2b(b"two", digest_size=16).hexdigest() != first


def test_a_file_changed_this_instant_is_not_remembered(tmp_path: Path, storage: Storage,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_SETTLED_NS", 10**12)
    path = tmp_path / "a"
    path.write_bytes(b"one")
    DigestCache(storage).files([path])[0]
    assert not storage.exists(CACHE_FILE)


def test_damaged_cache_is_computed_again(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "a"
    write_settled(path, b"one")
    storage.write_bytes(CACHE_FILE, b"{ not json")
    assert DigestCache(storage).files([path])[0] == digest_file(path)


def test_old_states_of_a_path_are_forgotten(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "a"
    for data in (b"one", b"four", b"sixty"):
        write_settled(path, data)
        DigestCache(storage).files([path])[0]
    assert len(storage.read_json(CACHE_FILE)) == 1


def test_without_storage_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_settled(path, b"one")
    assert DigestCache().files([path])[0] == digest_file(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_folder_digest_depends_on_names_and_bytes_but_not_on_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights").write_bytes(b"w")
    (tmp_path / "config").write_bytes(b"c")
    first = DigestCache().folder(tmp_path)
    (tmp_path / ".lock").write_bytes(b"")
    assert DigestCache().folder(tmp_path) == first
    (tmp_path / "sub" / "weights").rename(tmp_path / "sub" / "renamed")
    assert DigestCache().folder(tmp_path) != first


def test_a_folder_is_remembered_by_one_write(tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
                                             ) -> None:
    model = tmp_path / "model"
    model.mkdir()
    written, write = [], Storage.write_json
    monkeypatch.setattr(Storage, "write_json", lambda *given: written.append(given[1]) or write(*given))
    for number in range(20):
        write_settled(model / f"part-{number}", b"%d" % number)
    first = DigestCache(storage).folder(model)
    seen = reads(monkeypatch)
    assert DigestCache(storage).folder(model) == first
    assert (written, seen) == ([CACHE_FILE], [])


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing: cannot be read \(No such file"):
        DigestCache().files([tmp_path / "nothing"])[0]
