"""The storage root: local folders, and S3 by the same code on a server of this machine."""

from __future__ import annotations

import json
import os
import pickle
import stat
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from ray import cloudpickle

from cluster import node_copies
from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import ConfigError, StorageError
from tests.s3_server import CREDENTIALS, DENIED, refusing_server


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server of this machine accepts."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """An empty storage root of each kind."""
    monkeypatch.setattr(node_copies, "NODE_CACHE", tmp_path / "cache")
    if request.param == "local":
        return Storage.from_config(StorageConfig(uri=str(tmp_path / "root")))
    endpoint = request.getfixturevalue("s3_endpoint")
    return Storage.from_config(StorageConfig(uri=f"s3://bucket/{tmp_path.name}", endpoint=endpoint, region="us-east-1"))


def test_what_is_written_is_read_back(root: Storage) -> None:
    root.write_bytes("a/b.bin", b"\x00\xff")
    root.write_json("a/c.json", {"ключ": [1, 2.5, None]})
    table = pa.table({"x": [1, 2, 3], "y": ["p", "q", None]})
    root.write_table("a/t.parquet", table)
    assert root.read_bytes("a/b.bin") == b"\x00\xff"
    assert root.read_json("a/c.json") == {"ключ": [1, 2.5, None]}
    assert root.read_table("a/t.parquet") == table
    assert root.read_table("a/t.parquet", ["y"]).column_names == ["y"]


@pytest.mark.parametrize("value", ["x", "longer than what a refusal says " * 20], ids=["small", "large"])
def test_a_store_that_is_busy_four_times_running_is_asked_again(value: str) -> None:
    """Also after the way to a worker, which is a pickle."""
    pytest.importorskip("moto")
    refused = Counter[str]()

    def busy(method: str, path: str) -> bool:
        if not path.endswith(".json") or refused[method] == 4 or method not in ("PUT", "HEAD", "GET"):
            return False
        refused[method] += 1
        return True

    with refusing_server(busy) as endpoint:
        opened = Storage.from_config(StorageConfig(uri="s3://bucket/x", endpoint=endpoint, region="us-east-1"))
        opened.write_json("a.json", {"a": value})
        assert refused["PUT"] == 4
        travelled = pickle.loads(cloudpickle.dumps(opened))
        assert travelled.read_json("a.json") == {"a": value}
        if len(value) > 1:  # Ray reads with the filesystem alone, and asks again by itself where a refusal did not fit
            refused.clear()
            alone = pickle.loads(cloudpickle.dumps(opened.filesystem))
            assert json.loads(alone.open_input_stream(opened.path("a.json")).read()) == {"a": value}
    assert refused["GET"] == refused["HEAD"] == 4


def test_a_refused_read_is_told_with_the_place_and_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a token that has expired; a file that is not there is told from one that is refused."""
    pytest.importorskip("moto")
    monkeypatch.setattr(node_copies, "NODE_CACHE", tmp_path / "cache")
    denied: list[str] = []
    reads = (lambda at: at.read_bytes("a"), lambda at: at.local("a"), lambda at: at.read_table("a"),
             lambda at: list(at.read_batches("a", ["x"])), lambda at: at.read_rows("a", ("x", "in", [1])))
    with refusing_server(lambda method, path: method in denied and "/x/" in path, DENIED) as endpoint:
        opened = Storage.from_config(StorageConfig(uri="s3://bucket/x", endpoint=endpoint, region="us-east-1"))
        opened.write_table("a", pa.table({"x": np.random.default_rng(0).integers(0, 2**62, 2**18)}))
        for read in (*reads, lambda at: at.delete("absent/a")):
            denied[:] = ["HEAD"]
            with pytest.raises(StorageError, match="bucket/x.* cannot be rea.*ACCESS_DENIED.*check storage.uri"):
                read(opened)
            denied.clear()
        for read in reads:
            denied[:] = ["GET"]
            with pytest.raises(StorageError, match="bucket/x/a cannot be read: .*ACCESS_DENIED.*check storage.uri"):
                read(opened)
            denied.clear()
        for absent in (lambda: opened.read_bytes("none"), lambda: opened.local("none"),
                       lambda: opened.read_table("none")):
            with pytest.raises(FileNotFoundError):
                absent()


def test_a_folder_of_parquet_files_is_one_table(root: Storage) -> None:
    for part in (0, 1):
        root.write_table(f"t/part-{part}.parquet", pa.table({"x": [part, part]}))
    assert sorted(root.read_table("t")["x"].to_pylist()) == [0, 0, 1, 1]


def test_of_a_long_file_a_row_group_is_in_memory_at_once(root: Storage) -> None:
    """Not all that was read so far, as pyarrow has it unless it is told otherwise."""
    group, groups = 2**18, 16
    numbers = np.random.default_rng(0).integers(0, 2**62, group * groups)  # nothing to compress
    root.write_table("long.parquet", pa.table({"x": numbers}), row_group_size=group)
    before, held, rows = pa.total_allocated_bytes(), list[int](), 0
    for batch in root.read_batches("long.parquet", ["x"], 2**14):
        rows += batch.num_rows
        held.append(pa.total_allocated_bytes() - before)
    assert rows == group * groups
    usual = sorted(held)[len(held) // 2]  # threads of other tests may hold something for a while
    assert usual < 4 * 8 * group < numbers.nbytes / 3


def test_writing_again_replaces(root: Storage) -> None:
    root.write_json("a.json", {"v": 1, "long": "x" * 100})
    root.write_json("a.json", {"v": 2})
    assert root.read_json("a.json") == {"v": 2}
    assert root.names("") == ["a.json"]


def test_listing_and_existence(root: Storage) -> None:
    assert not root.exists("d")
    assert root.names("d") == []
    assert root.files("d") == []
    for name in ("d/2.txt", "d/1.txt", "d/sub/3.txt"):
        root.write_bytes(name, b"x")
    assert root.exists("d") and root.exists("d/1.txt") and not root.exists("d/4.txt")
    assert root.names("d") == ["1.txt", "2.txt", "sub"]
    assert root.files("d") == ["d/1.txt", "d/2.txt", "d/sub/3.txt"]


def test_delete_takes_files_folders_and_nothing(root: Storage) -> None:
    root.write_bytes("d/1.txt", b"x")
    root.write_bytes("d/sub/2.txt", b"x")
    root.delete("d/1.txt")
    assert root.files("d") == ["d/sub/2.txt"]
    root.delete("d")
    root.delete("never/was")
    assert root.files("") == []


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a\0b"])
def test_no_path_leaves_the_root(root: Storage, path: str) -> None:
    for action in (root.path, root.exists, root.read_bytes, root.delete, root.make_dir):
        with pytest.raises(StorageError, match="would leave the storage root"):
            action(path)
    with pytest.raises(StorageError, match="would leave the storage root"):
        root.write_bytes(path, b"x")
    if root.is_local:
        assert not [file for file in Path(root.base).parent.rglob("*") if file.is_file()]


def test_local_paths_hold_the_bytes(root: Storage) -> None:
    root.write_bytes("f/one.bin", b"1")
    root.write_bytes("f/sub/two.bin", b"2")
    assert root.local("f/one.bin").read_bytes() == b"1"
    folder = root.local("f")
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.bin")} == {
        "one.bin": b"1", "sub/two.bin": b"2"}
    assert root.local("f") == folder


def test_an_uploaded_folder_is_there_afterwards(root: Storage) -> None:
    with root.upload_folder("up/here") as folder:
        (folder / "sub").mkdir()
        (folder / "a.txt").write_text("a")
        (folder / "sub" / "b.txt").write_text("b")
    assert root.files("up") == ["up/here/a.txt", "up/here/sub/b.txt"]
    assert root.read_bytes("up/here/sub/b.txt") == b"b"
    with root.upload_folder("up/last", last="a.txt") as folder:
        for name in ("a.txt", "b.txt"):
            (folder / name).write_text(name)
    assert root.files("up/last") == ["up/last/a.txt", "up/last/b.txt"]
    assert root.read_bytes("up/last/a.txt") == b"a.txt"


def test_a_storage_travels_to_workers(root: Storage) -> None:
    root.write_bytes("a", b"x")
    there = pickle.loads(pickle.dumps(root))
    assert there.read_bytes("a") == b"x"
    assert there.is_local == root.is_local


def test_a_node_keeps_one_private_copy(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_copies, "NODE_CACHE", tmp_path / "cache")
    config = StorageConfig(uri=f"s3://bucket/{tmp_path.name}", endpoint=s3_endpoint, region="us-east-1")
    first = Storage.from_config(config)
    first.write_bytes("x", b"content")
    copy = first.local("x")
    other_region = Storage.from_config(config.model_copy(update={"region": "eu-west-1"}))
    assert copy.read_bytes() == b"content"
    assert first.local("x") == copy != other_region.local("x")
    assert Storage.from_config(config).local("x") == copy == pickle.loads(pickle.dumps(first)).local("x")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700


def test_a_copy_follows_what_was_replaced(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by as many bytes within the same second: the store's entity tags differ."""
    monkeypatch.setattr(node_copies, "NODE_CACHE", tmp_path / "cache")
    opened = Storage.from_config(StorageConfig(uri=f"s3://bucket/{tmp_path.name}", endpoint=s3_endpoint,
                                               region="us-east-1"))
    opened.write_bytes("pass/index", b"first")
    assert (opened.local("pass") / "index").read_bytes() == b"first"
    opened.write_bytes("pass/index", b"other")
    assert (opened.local("pass") / "index").read_bytes() == b"other"
    opened.write_bytes("pass/more", b"")
    assert sorted(p.name for p in opened.local("pass").iterdir()) == ["index", "more"]
    with pytest.raises(FileNotFoundError, match="pass/absent is not there"):
        opened.local("pass/absent")


def test_a_missing_bucket_is_named(s3_endpoint: str) -> None:
    absent = Storage.from_config(StorageConfig(uri="s3://no-such-bucket/x", endpoint=s3_endpoint, region="us-east-1"))
    with pytest.raises(StorageError, match="no-such-bucket/x/a cannot be written"):
        absent.write_bytes("a", b"x")


def test_a_relative_root_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened = Storage.from_config(StorageConfig(uri="here"))
    monkeypatch.chdir("/")
    assert opened.path("a") == f"{tmp_path}/here/a"
    assert opened.is_local


@pytest.mark.parametrize("scheme", ["file:", "file://", "file://localhost"])
def test_every_form_of_a_file_uri_is_the_local_folder(scheme: str, tmp_path: Path) -> None:
    opened = Storage.from_config(StorageConfig(uri=f"{scheme}{tmp_path}/my%20root/"))
    opened.write_bytes("a", b"x")
    assert opened == Storage.from_config(StorageConfig(uri=f"{tmp_path}/my root"))
    assert opened.is_local
    assert (tmp_path / "my root" / "a").read_bytes() == b"x"


@pytest.mark.parametrize("uri", ["file://other-host/x", "file:x", "file://"])
def test_a_file_uri_of_another_host_or_without_a_path_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"storage\.uri: got 'file:.*legal: file:///path"):
        Storage.from_config(StorageConfig(uri=uri))


def test_variables_and_the_home_folder_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NOT_SET", raising=False)
    assert Storage.from_config(StorageConfig(uri="$SCRATCH/results")).base == f"{tmp_path}/results"
    assert Storage.from_config(StorageConfig(uri="file://${SCRATCH}/results")).base == f"{tmp_path}/results"
    assert Storage.from_config(StorageConfig(uri="~/results")).base == f"{tmp_path}/home/results"
    assert not StorageConfig(uri="$SCRATCH/results").is_relative()
    assert StorageConfig(uri="results").is_relative()
    for uri in ("$NOT_SET/results", "s3://bucket/${NOT_SET}"):
        with pytest.raises(ConfigError, match="needs the environment variable NOT_SET, which is not set"):
            Storage.from_config(StorageConfig(uri=uri))


def test_bad_roots_say_what_is_legal(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"legal: a local folder, s3://"):
        Storage.from_config(StorageConfig(uri="ftp://host/x"))
    with pytest.raises(StorageError, match="go with an s3:// URI only"):
        Storage.from_config(StorageConfig(uri=str(tmp_path), endpoint="127.0.0.1:1"))


def test_a_root_that_is_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    opened = Storage.from_config(StorageConfig(uri=str(tmp_path / "file")))
    for write in (lambda: opened.write_bytes("a", b"x"), lambda: opened.make_dir("d"),
                  lambda: opened.write_table("t", pa.table({"x": [1]}))):
        with pytest.raises(StorageError, match="cannot be written"):
            write()


def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Storage.from_config(StorageConfig(uri=str(tmp_path)))
    opened.write_bytes("a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="a cannot be written: the disk is full .*make room there"):
        opened.write_bytes("a", b"new")
    assert opened.names("") == ["a"]
    assert opened.read_bytes("a") == b"old"


def test_a_silent_endpoint_is_named() -> None:
    silent = Storage(pafs.S3FileSystem(endpoint_override="http://127.0.0.1:9", region="us-east-1",
                                       retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=1)), "bucket")
    with pytest.raises(StorageError, match="bucket cannot be reached: .*check storage.uri, its endpoint"):
        silent.exists("a")


def test_a_failed_block_uploads_nothing_to_an_object_store(s3_endpoint: str, tmp_path: Path) -> None:
    opened = Storage.from_config(StorageConfig(uri=f"s3://bucket/{tmp_path.name}", endpoint=s3_endpoint,
                                               region="us-east-1"))
    with pytest.raises(ValueError, match="half-way"), opened.upload_folder("up") as folder:
        (folder / "a.txt").write_text("a")
        raise ValueError("half-way")
    assert opened.files("") == []
