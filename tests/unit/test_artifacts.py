"""The artifact contract: keys, manifests written last, attempts that never mix."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import threading
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.storage import Storage
from configs.errors import ArtifactError
from pipeline.store import leases
from pipeline.store.artifacts import (
    Artifact,
    ArtifactDir,
    StageKey,
    begin,
    changed_keys,
    digest_ids,
    find,
    find_or_begin,
    open_artifact,
)
from pipeline.store.leases import LeaseTaken

KEY = StageKey("demo", 1, {"alpha": 0.4, "names": ["a"]}, {"prepare": "0" * 16}, {"raw.csv": "1" * 32})
LEASE = f"{KEY.folder}/lease.json"
DEAD = leases.mine() | {"pid": 2**22 + 1, "created": 0.0}
"""A lease of this machine whose process cannot exist: Linux numbers processes below 2**22."""


def _built(storage: Storage, key: StageKey = KEY) -> ArtifactDir:
    out = begin(storage, key)
    out.write_table("rows.parquet", pa.table({"x": [1, 2, 3]}))
    out.write_json("info.json", {"a": 1})
    return out


def _abandon(storage: Storage, out: ArtifactDir, record: dict[str, Any] | None = None) -> None:
    """As after `kill -9`: the lease stays and its process is gone."""
    out.release()
    storage.write_json(LEASE, record or DEAD)


def _attempts(storage: Storage) -> list[str]:
    return storage.names(f"{KEY.folder}/attempts")


@pytest.mark.parametrize(
    "change",
    [{"stage": "other"}, {"version": 2}, {"config": {"alpha": 0.5, "names": ["a"]}},
     {"config": {"alpha": 0.4, "names": ["a"], "new": None}}, {"inputs": {"prepare": "2" * 16}}, {"inputs": {}},
     {"digests": {"raw.csv": "3" * 32}}],
)
def test_every_part_of_a_key_moves_its_fingerprint(change: dict[str, Any]) -> None:
    changed = dataclasses.replace(KEY, **change)
    assert changed.fingerprint != KEY.fingerprint
    assert len(changed.fingerprint) == 16


def test_a_fingerprint_does_not_depend_on_the_order_of_settings() -> None:
    turned = dataclasses.replace(KEY, config=dict(reversed(KEY.config.items())))
    assert turned.fingerprint == KEY.fingerprint
    assert KEY.folder == f"artifacts/demo/{KEY.fingerprint}"


def test_changed_keys_names_old_and_new() -> None:
    new = dataclasses.replace(KEY, version=2, config={"alpha": 0.4, "names": ["a", "b"], "beta": None}, digests={})
    assert changed_keys(KEY.values(), new.values()) == [
        "config.beta: absent → None",
        "config.names: ['a'] → ['a', 'b']",
        "digests: absent → {}",
        f"digests.raw.csv: {'1' * 32!r} → absent",
        "version: 1 → 2",
    ]


def test_nothing_is_found_before_the_commit(storage: Storage) -> None:
    assert find(storage, KEY) is None
    _built(storage)
    assert find(storage, KEY) is None


def test_a_committed_artifact_is_found_whole(storage: Storage) -> None:
    out = _built(storage)
    made = out.commit({"num_in": 5, "num_out": 3, "num_rejected": 2}, {"rows.parquet": ["x"]}, "digest", {"seed": 7})
    found = find(storage, KEY)
    assert found is not None
    assert found.manifest == made.manifest
    assert found.fingerprint == KEY.fingerprint
    assert found.manifest.key == KEY.values()
    assert found.manifest.counts == {"num_in": 5, "num_out": 3, "num_rejected": 2}
    assert found.manifest.columns == {"rows.parquet": ["x"]}
    assert found.manifest.id_digest == "digest"
    assert found.manifest.info == {"seed": 7}
    assert set(found.manifest.files) == {"rows.parquet", "info.json"}
    assert found.read_table("rows.parquet", ["x"])["x"].to_pylist() == [1, 2, 3]
    assert found.read_json("info.json") == {"a": 1}
    assert found.local("info.json").read_text() == '{\n  "a": 1\n}\n'
    assert not storage.exists(LEASE)


def test_an_artifact_travels_to_workers(storage: Storage) -> None:
    made = _built(storage).commit({"num_out": 3})
    assert pickle.loads(pickle.dumps(made)).read_json("info.json") == {"a": 1}


def test_an_attempt_travels_to_workers_without_its_lease(storage: Storage) -> None:
    out = _built(storage)
    pickle.loads(pickle.dumps(out)).release()
    assert storage.exists(LEASE)
    out.release()
    assert not storage.exists(LEASE)


def test_lost_rows_refuse_the_commit(storage: Storage) -> None:
    out = _built(storage)
    with pytest.raises(ArtifactError, match="demo: rows are not conserved: .*'num_in': 5"):
        out.commit({"num_in": 5, "num_out": 3, "num_rejected": 1})
    assert find(storage, KEY) is None


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_damaged_file_is_named(storage: Storage, damage: str) -> None:
    made = _built(storage).commit({"num_out": 3})
    if damage == "truncate":
        storage.write_bytes(made.relative("rows.parquet"), storage.read_bytes(made.relative("rows.parquet"))[:-1])
    else:
        storage.delete(made.relative("rows.parquet"))
    with pytest.raises(ArtifactError, match=r"rows\.parquet: expected \d+ bytes, found .*; delete the folder"):
        find(storage, KEY)


@pytest.mark.parametrize("content", [b"", b'{"stage": "demo"', b"[1]", b'{"stage": "demo"}', b"\xff\xfe"])
def test_a_damaged_manifest_is_named(storage: Storage, content: bytes) -> None:
    _built(storage).commit({"num_out": 3})
    storage.write_bytes(f"{KEY.folder}/manifest.json", content)
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged; delete the folder"):
        open_artifact(storage, "demo", KEY.fingerprint)


def test_an_unknown_address_is_none(storage: Storage) -> None:
    assert open_artifact(storage, "demo", "f" * 16) is None


def test_the_key_is_kept_with_an_unfinished_attempt(storage: Storage) -> None:
    begin(storage, KEY)
    assert storage.read_json(f"{KEY.folder}/key.json") == json.loads(json.dumps(KEY.values()))


def test_a_second_builder_is_refused_or_waits_for_the_first(storage: Storage) -> None:
    first, told = _built(storage), []
    with pytest.raises(LeaseTaken, match=rf"process {os.getpid()} on .* is at work on it; wait for it, stop it"):
        begin(storage, KEY)
    timer = threading.Timer(0.3, lambda: first.commit({"num_out": 3}))
    timer.start()
    found = find_or_begin(storage, KEY, False, told.append)
    timer.join()
    assert isinstance(found, Artifact) and found.read_json("info.json") == {"a": 1}
    assert [taken.owner["pid"] for taken in told] == [os.getpid()]
    assert not storage.exists(LEASE)


def test_who_waits_for_a_builder_that_gives_up_builds(storage: Storage) -> None:
    first = _built(storage)
    timer = threading.Timer(0.2, first.release)
    timer.start()
    found = find_or_begin(storage, KEY, True, lambda _: None)
    timer.join()
    assert isinstance(found, ArtifactDir) and (found.attempt, found.resumed) == (first.attempt, True)


def test_a_dead_owners_attempt_is_taken_up_again(storage: Storage) -> None:
    out = _built(storage)
    _abandon(storage, out)
    again = begin(storage, KEY, resume=True)
    assert (again.attempt, again.resumed) == (out.attempt, True)
    assert storage.read_json(again.relative("info.json")) == {"a": 1}
    assert again.lease is not None and again.lease.held() and leases.alive(storage.read_json(LEASE), 300)


def test_a_released_attempt_is_taken_up_again_at_once(storage: Storage) -> None:
    out = _built(storage)
    out.release()
    assert begin(storage, KEY, resume=True).attempt == out.attempt


def test_a_fresh_start_removes_dead_attempts(storage: Storage) -> None:
    out = _built(storage)
    _abandon(storage, out)
    fresh = begin(storage, KEY)
    assert not fresh.resumed
    assert _attempts(storage) == [fresh.attempt]


def test_another_hosts_work_is_left_alone_until_it_has_been_silent_for_too_long(storage: Storage) -> None:
    out = _built(storage)
    _abandon(storage, out, DEAD | {"host": "elsewhere", "beat": time.time() - storage.lease_timeout_s + 60})
    with pytest.raises(LeaseTaken, match="on elsewhere"):
        begin(storage, KEY, resume=True)
    storage.write_json(LEASE, DEAD | {"host": "elsewhere", "beat": time.time() - storage.lease_timeout_s - 1})
    assert begin(storage, KEY, resume=True).attempt == out.attempt


@pytest.mark.parametrize("resume", [True, False])
def test_an_artifact_finished_meanwhile_is_not_touched(storage: Storage, resume: bool) -> None:
    """A process that looked before another one committed begins an attempt beside the finished one."""
    made = _built(storage).commit({"num_out": 3})
    late = begin(storage, KEY, resume=resume)
    assert late.folder != made.folder
    assert late.commit({"num_out": 0}).manifest == made.manifest
    found = find(storage, KEY)
    assert found is not None and found.read_json("info.json") == {"a": 1}


def test_digests_follow_order_and_boundaries() -> None:
    assert digest_ids(["a", "b"]) != digest_ids(["b", "a"])
    assert digest_ids(["ab", "c"]) != digest_ids(["a", "bc"])
    assert digest_ids([]) != digest_ids([""])


def test_digests_are_the_same_from_every_container() -> None:
    ids = [3, 1, 2]
    expected = digest_ids(np.array(ids, np.int64))
    assert digest_ids(np.array(ids, np.int32)) == expected
    assert digest_ids(np.array([3, 0, 1, 0, 2])[::2]) == expected
    assert digest_ids(pa.array(ids, pa.int32())) == expected
    assert digest_ids(pa.chunked_array([[3], [1, 2]])) == expected
    words = ["x", "ü", ""]
    assert digest_ids(pa.array(words)) == digest_ids(words) == digest_ids(np.array(words))
    assert digest_ids(pa.chunked_array([words[:1], words[1:]])) == digest_ids(words)
    assert digest_ids(["3", "1", "2"]) == digest_ids(np.array(["3", "1", "2"])) != expected
