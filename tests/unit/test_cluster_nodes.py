"""What a node says of itself, and what is made of it."""

from __future__ import annotations

from pathlib import Path

from cluster.config import StorageConfig
from cluster.doctor import of_node
from cluster.nodes import Facts, Node, facts_of_this_node, versions
from cluster.storage import Storage


def test_a_node_reads_the_probe_and_answers_beside_it(tmp_path: Path) -> None:
    storage = Storage.from_config(StorageConfig(uri=str(tmp_path)))
    assert facts_of_this_node(storage, ".probe", "n1", [str(tmp_path)]).storage is not None
    storage.write_bytes(".probe", b".probe")
    facts = facts_of_this_node(storage, ".probe", "n1", [str(tmp_path), str(tmp_path / "no")])
    assert (facts.storage, facts.lacks) == (None, [str(tmp_path / "no")])
    assert {path.name for path in tmp_path.iterdir()} == {".probe", ".probe-n1"}


def test_other_versions_and_little_room_are_warnings() -> None:
    ours = dict(versions())
    good = Facts("h", 2**36, 2**33, 2**36, ours, None)
    assert of_node(Node("10.0.0.2", 4, 0, good)).status == "ok"
    old = of_node(Node("10.0.0.2", 4, 0, Facts("h", 2**36, 2**33, 2**36, ours | {"torch": "2.0"}, None)))
    assert old.status == "warn" and f"torch 2.0 (here {ours['torch']})" in old.detail
    assert of_node(Node("10.0.0.2", 4, 0, Facts("h", 2**36, None, 2**36, ours, None))).status == "warn"
    silent = of_node(Node("10.0.0.2", 4, 0, None, "no answer within 120 s"))
    assert (silent.status, silent.detail) == ("fail", "no answer within 120 s")
