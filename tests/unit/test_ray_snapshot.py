"""Ray Train's list of checkpoints after a kill in the middle of its writing."""

from __future__ import annotations

import pytest

from cluster.storage import Storage
from pipeline.train.ray_session import drop_torn_snapshot

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
