"""What is said and done where Ray Train fails: its list of checkpoints after a kill, and what ended its workers."""

from __future__ import annotations

import errno

import pytest
from ray.train import WorkerGroupError

from cluster.storage import Storage
from configs.errors import StorageError, TrainingError
from pipeline.train.execution_config import TrainExecution
from pipeline.train.ray_session import _explain, drop_torn_snapshot

PATH = "ray/0123456789abcdef/checkpoint_manager_snapshot.json"


@pytest.mark.parametrize("content", [b"", b'{"checkpoint_results": [{"che', b"\xff\xfe"])
def test_a_torn_list_is_removed(storage: Storage, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    storage.write_bytes(PATH, content)
    drop_torn_snapshot(storage, PATH)
    assert not storage.exists(PATH)
    assert "starting this training anew" in capsys.readouterr().err


def test_a_whole_list_and_none_at_all_stay_as_they_are(storage: Storage) -> None:
    drop_torn_snapshot(storage, PATH)
    storage.write_json(PATH, {"checkpoint_results": []})
    drop_torn_snapshot(storage, PATH)
    assert storage.read_json(PATH) == {"checkpoint_results": []}


def test_a_worker_on_a_full_disk_says_so() -> None:
    """Ray's own upload of a checkpoint raises the operating system's error."""
    failed = WorkerGroupError("failed", {1: OSError(errno.ENOSPC, "No space left on device", "/data/ray/checkpoint")})
    told = _explain(failed, TrainExecution(), "/data/ray")
    assert isinstance(told, StorageError) and "/data/ray/checkpoint cannot be written: the disk is full" in str(told)
    broken = _explain(WorkerGroupError("failed", {0: ValueError("odd")}), TrainExecution(), "/data/ray")
    assert isinstance(broken, TrainingError) and "restarts did not help: {0: 'ValueError: odd'}" in str(broken)
