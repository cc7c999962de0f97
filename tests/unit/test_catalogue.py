"""Items that only the items' table knows: left out and told, or part of the catalogue behind all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.storage import Storage
from configs.errors import DataError
from pipeline.prepare import keys
from pipeline.prepare.config import InteractionColumns, PrepareConfig, TableSource
from pipeline.prepare.stage import prepare
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import COUNT, ITEM_ID, ITEM_IDX, TIMESTAMP, TITLE
from tests.sequences import generate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 users over 12 items, ids of floats; a table that also names two new items, one twice, and twice no id."""
    rows = [f"u{u},{item},{time}" for u, walk in enumerate(generate(60, 12, seed=1)) for time, item in enumerate(walk)]
    (tmp_path / "interactions.csv").write_text("user,item,timestamp\n" + "\n".join(rows) + "\n")
    named = [*range(1, 13), 99, 98, 99]
    (tmp_path / "items.csv").write_text("item,title\n" + "".join(f"{i}.0,Title {i}\n" for i in named)
                                        + ",nothing\nnan,none\n")
    return tmp_path


def build(storage: Storage, folder: Path, items: str | None = "items.csv", **more: Any) -> Artifact:
    config = PrepareConfig(source=TableSource(
        interactions=str(folder / "interactions.csv"), items=items and str(folder / items), item_id="item",
        columns=InteractionColumns(user="user", item="item", timestamp="timestamp")), **more)
    return prepare(config, artifacts.begin(storage, keys.key(config)))


def table(prepared: Artifact) -> list[tuple[str, str, int]]:
    found = prepared.read_table("items.parquet", [ITEM_ID, TITLE, COUNT])
    return list(zip(*(found[name].to_pylist() for name in (ITEM_ID, TITLE, COUNT)), strict=True))


def test_items_without_an_interaction_are_left_out_and_told(storage: Storage, folder: Path,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    found = table(build(storage, folder))
    assert len(found) == 12 and all(title == f"Title {item}" for item, title, _ in found)
    said = capsys.readouterr().err
    assert "2 items of the items' table have no interaction that stays and are left out, such as '99'; " in said
    assert said.count("every id is a whole number") == 1


def test_a_whole_catalogue_has_them_last_and_changes_nothing_else(storage: Storage, folder: Path) -> None:
    alone, whole = build(storage, folder), build(storage, folder, catalogue="table")
    assert table(whole) == [*table(alone), ("99", "Title 99", 0), ("98", "Title 98", 0)]
    for name in ("train.arrow", "validation.arrow", "test.arrow", "interactions.parquet"):
        assert (Path(alone.local(name)).read_bytes() == Path(whole.local(name)).read_bytes()), name
    assert alone.fingerprint != whole.fingerprint
    assert "catalogue" not in alone.manifest.key["config"], "the address is what it was before there was a choice"


def test_an_item_that_gets_its_first_interaction_keeps_its_place(storage: Storage, folder: Path) -> None:
    before = build(storage, folder, catalogue="table")
    with (folder / "interactions.csv").open("a") as file:
        file.write("u0,98,1000\nu1,98,1000\nu2,5000,1001\nu3,5000,1001\n")
    with (folder / "items.csv").open("a") as file:
        file.write("97,Title 97\n")
    after = build(storage, folder, catalogue="table", extends=before.fingerprint)
    ids = [item for item, _, _ in table(after)]
    assert ids[:14] == [item for item, _, _ in table(before)] and ids[14:] == ["5000", "97"]
    first = {item: count for item, _, count in table(after)}
    assert (first["98"], first["99"], first["97"]) == (0, 0, 0), "held out: last of their users"
    rows = after.read_table("interactions.parquet", [ITEM_IDX, TIMESTAMP]).to_pylist()
    assert [[row[ITEM_IDX] for row in rows if row[TIMESTAMP] == time] for time in (1000, 1001)] == [[14, 14], [15, 15]]
    with pytest.raises(DataError, match="leave prepare.catalogue as it was"):
        build(storage, folder, extends=before.fingerprint)


def test_a_catalogue_needs_a_table_of_these_items(storage: Storage, folder: Path) -> None:
    with pytest.raises(DataError, match="prepare.catalogue=table: the source has no items' table"):
        build(storage, folder, items=None, catalogue="table")
    (folder / "others.csv").write_text("item,title\nA1,a\nA2,b\n")
    with pytest.raises(DataError, match="it describes none"):
        build(storage, folder, items="others.csv", catalogue="table")
