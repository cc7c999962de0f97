"""What disks refuse, told alike whichever library was writing."""

from __future__ import annotations

import errno
import os
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from cluster.config import StorageConfig
from cluster.faults import environment_fault, fault, storage_errors
from cluster.storage import Storage
from configs.errors import ConfigError, StorageError

TABLE = pa.table({"x": np.arange(100_000)})
WRITERS: dict[str, Callable[[Path], object]] = {
    "open": lambda path: path.write_bytes(b"x" * 100_000),
    "parquet": lambda path: pq.write_table(TABLE, path),
    "arrow": lambda path: pafs.LocalFileSystem().open_output_stream(str(path)).write(b"x" * 100_000),
    "polars": lambda path: pl.DataFrame({"x": np.arange(100_000)}).write_parquet(path),
    "safetensors": lambda path: save_file({"x": torch.arange(100_000)}, path),
}


@pytest.fixture
def small_files() -> Iterator[None]:
    """The operating system refuses to let a file grow beyond 4 KiB, whichever library writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_refused_write_is_told_alike_whoever_writes(writer: str, tmp_path: Path, small_files: None) -> None:
    refused = pytest.raises(StorageError, match="cannot be written: the file would be larger")
    with refused as caught, storage_errors(str(tmp_path)):
        WRITERS[writer](tmp_path / "file")
    assert caught.value.__cause__ is not None and "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
def test_a_full_disk_is_told_with_the_room_there_is() -> None:
    refused = pytest.raises(StorageError, match=r"/r cannot be written: the disk is full \(.* MiB free\); make room")
    with refused, storage_errors("/r"), open("/dev/full", "wb") as file:
        file.write(b"x" * 100_000)


def test_the_true_cause_of_every_refusal(tmp_path: Path) -> None:
    messages = {number: str(fault(OSError(number, "refused", str(tmp_path / "file")), "/elsewhere"))
                for number in (errno.EROFS, errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.ENAMETOOLONG)}
    assert all(message.startswith(f"{tmp_path / 'file'} cannot be written: ") for message in messages.values())
    assert "read-only" in messages[errno.EROFS] and "room" not in messages[errno.EROFS]
    assert "no permission" in messages[errno.EACCES] and "room" not in messages[errno.EACCES]
    assert "quota" in messages[errno.EDQUOT] and "MiB free" in messages[errno.ENOSPC]
    assert "too long" in messages[errno.ENAMETOOLONG]


def test_the_cause_is_found_inside_what_wraps_it() -> None:
    class TaskError(Exception):  # as Ray brings a worker's exception
        cause = OSError(errno.ENOSPC, "No space left on device", "/data/block")

    def wrapped() -> None:
        try:
            raise OSError(errno.EROFS, "Read-only file system", "/data/x")
        except OSError as exc:
            raise RuntimeError("the writer gave up") from exc

    assert "/data/block cannot be written: the disk is full" in str(fault(TaskError("failed"), "/r"))
    refused = pytest.raises(StorageError, match="/data/x cannot be written: the file system is read-only")
    with refused, storage_errors("/r"):
        wrapped()


def test_what_an_object_store_refuses_is_told_whoever_asked() -> None:
    told = "When reading information for key 'x/a' in bucket 'b': AWS Error ACCESS_DENIED during HeadObject operation"
    remote = RuntimeError(f'ray::read() (pid=7)\n  File "/venv/fs.py", line 9, in read\nOSError: {told}')
    for error in (OSError(told), remote):
        message = str(fault(error, "/r"))
        assert message.startswith("the object store refused a request: ") and "ray::" not in message
        assert f"{told}; check storage.uri, its endpoint and the credentials in the environment" in message


def test_the_path_is_not_taken_from_a_remote_traceback() -> None:
    text = ('ray::write() (pid=7)\n  File "/venv/ray/data/util.py", line 9, in write\n'
            "OSError: [Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device")
    assert str(fault(RuntimeError(text), "/root")).startswith("/root cannot be written: the disk is full")
    named = text.replace("bytes to file", "to '/disk/rows/part-0.parquet'")
    assert str(fault(RuntimeError(named), "/root")).startswith("/disk/rows/part-0.parquet cannot be written")


def test_the_remedy_names_the_place_and_the_path_stays_as_it_is() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/data/storage.uri/x")
    assert re.fullmatch(r"/data/storage\.uri/x cannot be written: the disk is full.*; make room there or set HOME to "
                        r"another place; the same command then goes on", str(fault(full, "/r", "HOME")))
    assert "set storage.uri to another place" in str(fault(full, "/r"))


def test_what_is_no_refusal_of_a_disk_stays_as_it_is() -> None:
    for error in (ValueError("a defect"), OSError(errno.ECONNREFUSED, "refused"), FileNotFoundError(2, "gone", "/x"),
                  ConfigError("permission denied is a word of this message")):
        assert fault(error, "/r") is None
        with pytest.raises(type(error)), storage_errors("/r"):
            raise error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_somebody_else_is_no_matter_of_space(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    storage = Storage.from_config(StorageConfig(uri=str(tmp_path / "results")))
    with pytest.raises(StorageError, match="no permission; change its owner or mode"):
        storage.write_json("a.json", 1)


def test_a_runtime_environment_that_cannot_be_set_up_is_one_line_wherever_it_is_wrapped() -> None:
    from ray.exceptions import RuntimeEnvSetupError

    wrapped = RuntimeError("a task failed")
    wrapped.__cause__ = RuntimeEnvSetupError("no package of that name")
    told = str(environment_fault(wrapped))
    assert told.startswith("a stage's runtime environment cannot be set up: ") and "no package of that name" in told
    assert "execution.runtime_env" in told and "\n" not in told
    assert environment_fault(RuntimeError("another")) is None
