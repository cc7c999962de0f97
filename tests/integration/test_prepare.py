"""The whole stage on files: real data sets, every source, determinism, invariances."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import DataError
from configs.loader import load
from pipeline.config import RunConfig
from pipeline.prepare import keys
from pipeline.prepare.config import (
    FilterConfig,
    GlobalTemporalSplit,
    InteractionColumns,
    LeaveOneOutSplit,
    MovieLensSource,
    PrepareConfig,
    PrepareExecution,
    SequencesSource,
    SessionsSplit,
    SplitConfig,
    TableSource,
)
from pipeline.prepare.definition import COLUMNS
from pipeline.prepare.stage import prepare
from pipeline.store import artifacts
from pipeline.store.arrays import cases, training_sequences
from pipeline.store.artifacts import Artifact, digest_ids
from pipeline.store.columns import (
    ATTRIBUTES,
    CATEGORY,
    COUNT,
    FIELDS,
    ITEM_ID,
    ITEM_IDX,
    ITEMS,
    POSITION,
    REVIEW,
    SIGNAL,
    SPLIT,
    TEST,
    TIMESTAMP,
    TITLE,
    TRAIN,
    USER_ID,
    USER_IDX,
)
from pipeline.store.digests import DigestCache

TABLES = ("interactions.parquet", "items.parquet", "users.parquet", "histories")
ARRAYS = ("train.arrow", "validation.arrow", "test.arrow")


def run(config: PrepareConfig, storage: Storage) -> Artifact:
    return prepare(config, artifacts.begin(storage, keys.key(config)))


def contents(artifact: Artifact) -> dict[str, Any]:
    """Every table of an artifact as Python values."""
    tables = {name: artifact.read_table(name).to_pydict() for name in TABLES}
    users, train = training_sequences(artifact.local("train.arrow"))
    tables["train"] = (users.tolist(), [s.tolist() for s in train])
    for name in ("validation", "test"):
        found = cases(artifact.local(f"{name}.arrow"))
        tables[name] = (found.users.tolist(), [h.tolist() for h in found.histories], found.targets.tolist())
    return tables


# --- the real data ---


def test_beauty(data_dir: Path, storage: Storage) -> None:
    artifact = run(PrepareConfig(source=SequencesSource()), storage)
    counts = artifact.manifest.counts
    assert (counts["users"], counts["items"], counts["num_in"]) == (22_363, 12_101, 198_502)
    assert counts["num_out"] == counts["num_in"] and counts["num_rejected"] == 0
    users, train = training_sequences(artifact.local("train.arrow"))
    assert len(users) == 22_363
    assert len(train.values) == 198_502 - 2 * 22_363
    first = (data_dir / "beauty" / "user_sequence.txt").read_text().split("\n", 1)[0].split()
    ids = artifact.read_table("items.parquet")[ITEM_ID].to_pylist()
    test = cases(artifact.local("test.arrow"))
    assert [ids[i - 1] for i in test.histories[0]] == first[1:-1]
    assert ids[test.targets[0] - 1] == first[-1]
    assert artifact.manifest.id_digest == digest_ids(ids)
    stats = artifact.read_json("stats.json")
    assert stats["tied_rows_share"] is None and stats["boundary"] is None
    assert stats["items_without_text"] == 1


def test_beauty_with_its_texts(data_dir: Path, storage: Storage) -> None:
    """The same users, items and order as the sequences, with times and three text fields."""
    prepared = run(load(RunConfig, "configs/beauty-2014/sasrec.yaml").prepare, storage)
    counts = prepared.manifest.counts
    assert (counts["users"], counts["items"], counts["num_in"]) == (22_363, 12_101, 198_502)
    assert counts["num_out"] == counts["num_in"] and counts["num_rejected"] == 0
    stats = prepared.read_json("stats.json")
    assert stats["rows_without_time"] == 287
    assert stats["tied_rows_share"] > 0.5
    sequences = run(PrepareConfig(source=SequencesSource()), storage)
    for artifact in (prepared, sequences):
        assert artifact.read_table("users.parquet")[USER_ID].to_pylist()[:1] == [
            (data_dir / "beauty" / "user_sequence.txt").read_text().split(maxsplit=1)[0]]
    walks = [sorted_items(artifact) for artifact in (prepared, sequences)]
    assert walks[0] == walks[1]
    fields = dict(prepared.read_table("items.parquet")[FIELDS][0].as_py())
    assert list(fields) == ["title", "brand", "categories"] and fields["categories"].startswith("Beauty, ")


def sorted_items(artifact: Artifact) -> list[str]:
    """Raw ids of the items, users in order, each user's in his order."""
    ids = artifact.read_table("items.parquet")[ITEM_ID]
    items = pc.subtract(artifact.read_table("interactions.parquet")[ITEM_IDX], 1)
    found: list[str] = pc.take(ids, items).to_pylist()
    return found


@pytest.mark.parametrize("name", ["sasrec", "sasrec-temporal"])
def test_ml_1m(data_dir: Path, storage: Storage, name: str) -> None:
    artifact = run(load(RunConfig, f"configs/ml-1m/{name}.yaml").prepare, storage)
    counts = artifact.manifest.counts
    assert (counts["users"], counts["items"], counts["num_in"]) == (6_040, 3_416, 999_611)
    assert counts["num_out"] == counts["num_in"]
    assert artifact.read_json("stats.json")["items_unknown"] == 0
    fields = dict(artifact.read_table("items.parquet")[FIELDS][0].as_py())
    assert {"title", "year", "genres", "director", "actors"} <= set(fields)


def test_ml_latest_small_at_the_quantile(data_dir: Path, storage: Storage) -> None:
    artifact = run(PrepareConfig(source=MovieLensSource(tags=True), split=GlobalTemporalSplit()), storage)
    stats = artifact.read_json("stats.json")
    assert (stats["users"], stats["items"], stats["interactions"]) == (671, 9_066, 100_004)
    assert stats["test_users"] == 147
    assert stats["test_users_with_training_history"] == 23
    assert stats["tied_rows_share"] == pytest.approx(1 / 3, abs=0.02)
    assert stats["validation_users"] == round(0.2 * (stats["train_users"] + stats["validation_users"]))
    assert stats["boundary_iso"].startswith("2012-06-09T")
    raw = np.loadtxt(data_dir / "ml-latest-small" / "ratings.csv", delimiter=",", skiprows=1, usecols=3, dtype=np.int64)
    assert stats["boundary"] == np.sort(raw)[int(np.ceil(0.8 * len(raw))) - 1]
    items = artifact.read_table("items.parquet")
    assert {"title", "genres", "tags"} <= {k for fields in items[FIELDS].to_pylist() for k, _ in fields}


# --- a small table, every file checked against naive Python ---

LINES = """user_id,item_id,timestamp,rating,review
b,x,10,5,fine
a,y,5,1,
b,z,30,4,late
a,x,20,3,ok
c,x,7,2,
a,w,40,5,end
a,q,8,4,
d,y,9,3,
d,x,15,2,mid
d,y,15,2,tie
"""


def small(tmp_path: Path, split: SplitConfig, lines: str = LINES, **settings_: Any) -> PrepareConfig:
    path = tmp_path / "t.csv"
    path.write_text(lines)
    items = tmp_path / "items.csv"
    items.write_text("item_id,title,genre,about\nx,Ex,g1|g2,\"<b>big</b>\nthing\"\ny,,g2,told\nz,Zed,,\nx,again,,\n")
    users = tmp_path / "users.csv"
    users.write_text("user_id,age\na,30\nd,\n")
    return PrepareConfig(
        source=TableSource(interactions=str(path), columns=InteractionColumns(signal="rating", review="review"),
                           items=str(items), title="title", category="genre", text_fields=("about", "genre"),
                           users=str(users), attributes=("age",)), split=split, **settings_)


def test_files_hold_what_the_contract_says(tmp_path: Path, storage: Storage) -> None:
    artifact = run(small(tmp_path, GlobalTemporalSplit(boundary=15, validation_users=0.3)), storage)
    table = artifact.read_table("interactions.parquet")
    types = {f.name: f.type for f in table.schema}
    assert types[USER_IDX] == pa.int64() and types[ITEM_IDX] == pa.int32() and types[POSITION] == pa.int32()
    assert types[TIMESTAMP] == pa.int64() and types[SIGNAL] == pa.float32() and types[REVIEW] == pa.string()
    users = artifact.read_table("users.parquet").to_pydict()
    assert users[USER_ID] == ["b", "a", "c", "d"]  # in the order of their first raw row
    assert users[USER_IDX] == [0, 1, 2, 3]
    assert users[ATTRIBUTES] == [[], [("age", "30")], [], []]
    rows = table.to_pydict()
    assert [t for t, u in zip(rows[TIMESTAMP], rows[USER_IDX], strict=True) if u == 1] == [5, 8, 20, 40]
    assert rows[POSITION] == [0, 1] + [0, 1, 2, 3] + [0] + [0, 1, 2]
    items = artifact.read_table("items.parquet").to_pydict()
    assert items[ITEM_IDX] == [1, 2, 3, 4, 5]
    assert items[ITEM_ID] == ["x", "z", "y", "q", "w"]  # in the order of users and time
    assert items[TITLE] == ["Ex", "Zed", "told", None, None]
    assert items[CATEGORY] == ["g1", None, "g2", None, None]
    assert items[FIELDS][0] == [("title", "Ex"), ("about", "big thing"), ("genre", "g1|g2")]
    train = [i for i, s in zip(rows[ITEM_IDX], rows[SPLIT], strict=True) if s == TRAIN]
    assert items[COUNT] == [train.count(i) for i in items[ITEM_IDX]]
    stats = artifact.read_json("stats.json")
    assert (stats["items_unknown"], stats["items_repeated_rows"], stats["items_without_text"]) == (2, 1, 2)
    assert stats["users_unknown"] == 2
    assert stats["users_with_one_interaction"] == 1
    assert stats["tied_rows_share"] == 2 / 10
    assert stats["test_users"] == 2 and stats["test_cold_targets"] == 2  # b's z and a's w stand in no training row
    assert {name for name in COLUMNS if name.endswith(("parquet", "arrow"))} <= artifact.manifest.files.keys()


def test_repeated_targets_are_counted(tmp_path: Path, storage: Storage) -> None:
    stats = run(small(tmp_path, LeaveOneOutSplit(), LINES.replace("d,x,15", "d,x,14")), storage).read_json("stats.json")
    assert stats["test_users"] == 2  # a and d have three items
    assert stats["test_repeated_targets"] == 1  # d: y x y
    assert stats["test_repeated_targets_share"] == 1 / 2


@pytest.mark.parametrize("split", [LeaveOneOutSplit(), GlobalTemporalSplit(boundary=15), SessionsSplit()])
def test_histories_and_training_equal_the_rows_marked_train(tmp_path: Path, storage: Storage,
                                                            split: SplitConfig) -> None:
    artifact = run(small(tmp_path, split, execution=PrepareExecution(history_rows=1)), storage)
    rows = artifact.read_table("interactions.parquet")
    train = rows.filter(pc.equal(rows[SPLIT], TRAIN)).to_pydict()
    expected: dict[int, list[int]] = {}
    for user, item in zip(train[USER_IDX], train[ITEM_IDX], strict=True):
        expected.setdefault(user, []).append(item)
    users, sequences = training_sequences(artifact.local("train.arrow"))
    assert dict(zip(users.tolist(), [s.tolist() for s in sequences], strict=True)) == expected
    histories = artifact.read_table("histories").to_pydict()
    assert dict(zip(histories[USER_IDX], histories[ITEMS], strict=True)) == expected
    assert [len(x) for x in histories["reviews"]] == [len(x) for x in histories[ITEMS]]
    assert len(artifact.storage.names(artifact.relative("histories"))) == len(users)


def test_test_history_is_everything_before_the_target(tmp_path: Path, storage: Storage) -> None:
    artifact = run(small(tmp_path, GlobalTemporalSplit(boundary=15)), storage)
    test = cases(artifact.local("test.arrow"))
    assert [h.tolist() for h in test.histories][1] == [3, 4, 1]  # a: y q x, of which x came after the boundary
    assert test.targets.tolist() == [2, 5]


def test_tags_of_held_out_interactions_are_no_item_text(tmp_path: Path, storage: Storage) -> None:
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n" + "".join(f"{u},{i},3,{i}\n" for u in (1, 2, 3) for i in (1, 2, 3, 4)))
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n" + "".join(f"{i},M{i},Drama\n" for i in (1, 2, 3, 4)))
    (tmp_path / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,1,Early,1\n2,1,early,1\n2,1,odd,1\n"
                                       "1,4,secret,4\n9,1,stranger,1\n1,2,,2\n")
    artifact = run(PrepareConfig(source=MovieLensSource(folder=str(tmp_path), tags=True)), storage)
    items = artifact.read_table("items.parquet").to_pydict()
    tags = {i: dict(fields).get("tags") for i, fields in zip(items[ITEM_ID], items[FIELDS], strict=True)}
    assert tags == {"1": "early, odd", "2": None, "3": None, "4": None}


# --- rows are counted, bad rows dropped on request ---


def test_dropped_rows_are_counted_by_reason(tmp_path: Path, storage: Storage) -> None:
    lines = LINES + "e,x,-4,1,\n,x,4,1,\ne,x,4,nan,\nb,x,10,5,again\nf,x,4,0.5,\n"
    config = small(tmp_path, LeaveOneOutSplit(), lines, filter=FilterConfig(bad_rows="drop", min_signal=1.0))
    artifact = run(config, storage)
    assert artifact.read_json("stats.json")["dropped"] == {
        "no_user_id": 1, "negative_time": 1, "no_signal": 1, "exact_copy": 1, "low_signal": 1}
    assert artifact.manifest.counts["num_in"] == 15
    assert artifact.manifest.counts["num_rejected"] == 5


# --- the same whatever must not matter ---

ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 20)), min_size=12, max_size=60)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, st.integers(0, 2), st.permutations(range(6)), st.permutations(range(7)),
       st.sampled_from([LeaveOneOutSplit(), GlobalTemporalSplit(quantile=0.6, validation_users=0.3),
                        SessionsSplit(test_users=0.3, validation_users=0.3)]))
def test_renaming_ids_changes_no_index_table(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]],
                                             seed: int, users: list[int], items: list[int], split: SplitConfig) -> None:
    folder = tmp_path_factory.mktemp("rename")
    storage = Storage.from_config(StorageConfig(uri=str(folder / "storage")))
    found = []
    for name, user, item in (("plain", "u{}", "i{}"), ("renamed", "{}", "item {}")):
        plain = name == "plain"
        text = "".join(f"{user.format(u if plain else users[u])},{item.format(i if plain else items[i])},{t}\n"
                       for u, i, t in rows)
        (folder / f"{name}.csv").write_text("user_id,item_id,timestamp\n" + text)
        config = PrepareConfig(source=TableSource(interactions=str(folder / f"{name}.csv")), split=split, seed=seed)
        try:
            tables = contents(run(config, storage))
        except DataError as exc:
            found.append({"error": str(exc)})
            continue
        tables["users.parquet"].pop(USER_ID)
        for column in (ITEM_ID, TITLE):
            tables["items.parquet"].pop(column)
        found.append(tables)
    assert found[0] == found[1]


def test_number_of_threads_and_engine_change_no_byte(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pl.DataFrame({"user_id": rng.integers(0, 900, 40_000), "item_id": rng.integers(0, 300, 40_000),
                  "timestamp": rng.integers(0, 5_000, 40_000)}).write_csv(tmp_path / "t.csv")
    config = PrepareConfig(source=TableSource(interactions=str(tmp_path / "t.csv")), filter=FilterConfig(k_core=3),
                           split=GlobalTemporalSplit())
    run(config, Storage.from_config(StorageConfig(uri=str(tmp_path / "here"))))
    script = (
        "import sys\nfrom cluster.config import StorageConfig\nfrom cluster.storage import Storage\n"
        "from pipeline.store import artifacts\nfrom pipeline.prepare import keys\n"
        "from pipeline.prepare.config import PrepareConfig\nfrom pipeline.prepare.stage import prepare\n"
        "config = PrepareConfig.model_validate_json(sys.argv[1])\n"
        "prepare(config, artifacts.begin(Storage.from_config(StorageConfig(uri=sys.argv[2])), keys.key(config)))\n")
    other = config.model_copy(update={"execution": PrepareExecution(streaming=False)})
    subprocess.run([sys.executable, "-c", script, other.model_dump_json(), str(tmp_path / "there")], check=True,
                   env=os.environ | {"POLARS_MAX_THREADS": "1", "PYTHONPATH": os.getcwd()})
    here, there = ({p.name: DigestCache().files([p])[0] for p in sorted((tmp_path / root).rglob("attempts/*/**/*"))
                    if p.is_file()} for root in ("here", "there"))
    assert here == there
    assert len(here) == 8


# --- the key ---


def test_one_changed_byte_of_raw_data_is_another_fingerprint_and_execution_is_not(tmp_path: Path) -> None:
    config = small(tmp_path, LeaveOneOutSplit())
    before = keys.key(config).fingerprint
    execution = PrepareExecution(streaming=False, history_rows=3)
    assert keys.key(config.model_copy(update={"execution": execution})).fingerprint == before
    assert keys.key(config.model_copy(update={"seed": 1})).fingerprint != before
    items = tmp_path / "items.csv"
    items.write_text(items.read_text().replace("Zed", "Zee"))
    changed = keys.key(config)
    assert changed.fingerprint != before
    assert sorted(changed.digests) == ["interactions/00000/t.csv", "items/00000/items.csv", "users/00000/users.csv"]


def test_seed_moves_the_held_out_users(tmp_path: Path, storage: Storage) -> None:
    lines = "user_id,item_id,timestamp,rating,review\n" + "".join(
        f"u{u},i{i},{10 * u + i},1,\n" for u in range(30) for i in range(3))
    drawn = set()
    (tmp_path / "t.csv").write_text(lines)
    for seed in range(3):
        artifact = run(PrepareConfig(source=TableSource(interactions=str(tmp_path / "t.csv")), split=SessionsSplit(),
                                     seed=seed), storage)
        drawn.add(tuple(cases(artifact.local("test.arrow")).users.tolist()))
        rows = artifact.read_table("interactions.parquet")
        held = set(rows.filter(pc.equal(rows[SPLIT], TEST))[USER_IDX].to_pylist())
        assert len(held) == round(0.1 * 30)
    assert len(drawn) > 1
