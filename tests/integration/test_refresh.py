"""New interactions arrive: ids are appended, only touched users are told anew, the fitted reducer places them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import ArtifactError, ConfigError, DataError
from pipeline.prepare import keys as prepare_keys
from pipeline.prepare.config import LeaveOneOutSplit, MovieLensSource, PrepareConfig, SyntheticSource
from pipeline.prepare.raw_layouts import write_raw_layout
from pipeline.prepare.stage import prepare
from pipeline.reduce import keys as reduce_keys
from pipeline.reduce.config import PCAReducer, ReduceConfig, UMAPReducer
from pipeline.reduce.stage import reduce
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact, StageKey
from pipeline.store.columns import ANGLE, ITEM_ID, ITEMS, PROFILE, USER_ID, USER_IDX, VECTOR
from tests.tools import TINY, cli_here
from tests.vectors import read_targets

USERS, ITEMS_COUNT = 150, 90


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated catalogue as raw files."""
    folder = tmp_path_factory.mktemp("raw")
    write_raw_layout("movielens", SyntheticSource(users=USERS, items=ITEMS_COUNT, mean_length=8), folder)
    return folder


def grown(raw: Path, folder: Path, share: float = 0.01, new_items: bool = False, without: str | None = None) -> Path:
    """The same files with ``share`` more interactions of old users, and one new user, at the end.

    Args:
        new_items: the new user's last item was never seen before.
        without: an earlier user whose rows are left out.
    """
    folder.mkdir(parents=True)
    (folder / "movies.csv").write_text((raw / "movies.csv").read_text() + (
        "9999,Quite another thing (1999),Drama\n" if new_items else ""))
    with (raw / "ratings.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    rng = np.random.default_rng(3)
    latest = max(int(row[3]) for row in rows)
    seen = {(row[0], row[1]) for row in rows}
    users, items = sorted({row[0] for row in rows}), sorted({row[1] for row in rows})
    added = []
    for user in rng.choice(users, max(1, round(share * len(rows))), replace=False).tolist():
        item = next(i for i in rng.permutation(items).tolist() if (user, i) not in seen)
        added.append([user, item, "4.5", str(latest + 10 + len(added))])
    for item in [*items[:4], *(["9999"] if new_items else [])]:
        added.append(["70001", item, "4.0", str(latest + 500 + len(added))])
    with (folder / "ratings.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *(row for row in rows if row[0] != without), *added])
    return folder


def prepared(storage: Storage, folder: Path, extends: str | None = None) -> Artifact:
    config = PrepareConfig(source=MovieLensSource(folder=str(folder)), split=LeaveOneOutSplit(), extends=extends)
    return prepare(config, artifacts.begin(storage, prepare_keys.key(config)))


def ids(artifact: Artifact, file: str, column: str) -> list[str]:
    return artifact.read_table(file, [column])[column].to_pylist()


@pytest.mark.parametrize("by_path", [False, True])
def test_ids_are_appended_whatever_the_order_of_the_new_file(raw: Path, storage: Storage, tmp_path: Path,
                                                             by_path: bool) -> None:
    first = prepared(storage, raw)
    folder = grown(raw, tmp_path / "grown", new_items=True)
    lines = (folder / "ratings.csv").read_text().splitlines()
    (folder / "ratings.csv").write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")  # newest rows first
    source = first.path("").rstrip("/") if by_path else first.fingerprint
    second = prepared(storage, folder, source)
    alone = prepared(storage, folder)
    for file, column in (("users.parquet", USER_ID), ("items.parquet", ITEM_ID)):
        before, after = ids(first, file, column), ids(second, file, column)
        assert after[: len(before)] == before
        assert sorted(after) == sorted(ids(alone, file, column)) and len(after) == len(before) + 1
        assert ids(alone, file, column)[: len(before)] != before, "the test shows nothing: the order is the same anyway"
    assert second.manifest.info["extends"] == {"artifact": source, "new_users": 1, "new_items": 1}
    assert second.fingerprint != alone.fingerprint


def test_an_id_that_vanishes_is_an_error(raw: Path, storage: Storage, tmp_path: Path) -> None:
    first = prepared(storage, raw)
    with pytest.raises(DataError, match=r"prepare.extends: 1 of 150 earlier users have no interaction left \('17'\)"):
        prepared(storage, grown(raw, tmp_path / "grown", without="17"), first.fingerprint)
    with pytest.raises(ArtifactError, match="prepare.extends: no finished `prepare` artifact 'ffffffffffffffff'"):
        prepared(storage, raw, "f" * 16)


def encoded(storage: Storage, users: list[int], rows: np.ndarray, model: str = "a") -> Artifact:
    key = StageKey("encode", 1, {"model": model}, {"profile": str(hash(rows.tobytes()))}, {"model": model})
    out = artifacts.begin(storage, key)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).reshape(-1)), rows.shape[1])
    out.write_table("vectors/part-00000.parquet", pa.table({
        USER_IDX: users, ANGLE: ["overall"] * len(users), VECTOR: vectors}))
    return out.commit({"num_out": len(users)})


def reduced(storage: Storage, config: ReduceConfig, vectors: Artifact) -> Artifact:
    return reduce(config, vectors, artifacts.begin(storage, reduce_keys.key(config, vectors.fingerprint)))


def targets(artifact: Artifact) -> np.ndarray:
    return read_targets(artifact).vectors_NP


@pytest.mark.parametrize("method", [PCAReducer(components=4), UMAPReducer(components=4, neighbors=8, epochs=30)],
                         ids=lambda m: m.kind)
def test_a_fitted_reducer_keeps_the_unchanged_and_places_the_others(storage: Storage, method: Any) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(80, 12))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    config = ReduceConfig(method=method, whiten=True, quality_rows=40)
    first = reduced(storage, config, encoded(storage, [*range(80)], rows))
    later = np.concatenate([rows, rows[:5]]) + rng.normal(scale=1e-6, size=(85, 12))
    later[[3, 40]] = later[[40, 3]]  # two users who changed
    refit = config.model_copy(update={"fitted_by": first.fingerprint})
    second = reduced(storage, refit, encoded(storage, [*range(85)], later))
    unchanged = [u for u in range(80) if u not in (3, 40)]
    np.testing.assert_array_equal(targets(second)[unchanged], targets(first)[unchanged])
    assert second.manifest.info["kept_rows"] == 78 and second.manifest.counts["num_out"] == 85
    scale = targets(first).std()
    for user, twin in ((3, 40), (40, 3), (80, 0), (84, 4)):  # a known vector lands near the place it had
        gap = np.linalg.norm(targets(second)[user] - targets(first)[twin])
        assert gap < (1e-4 if method.kind == "pca" else 2 * scale), (user, gap)
    third = reduced(storage, refit.model_copy(update={"fitted_by": second.fingerprint}),
                    encoded(storage, [*range(85)], later + 1e-7))
    np.testing.assert_array_equal(targets(third), targets(second))
    with pytest.raises(ConfigError, match=r"fitted with other settings: seed: 0 → 1"):
        reduced(storage, refit.model_copy(update={"seed": 1}), encoded(storage, [*range(85)], later))
    with pytest.raises(ConfigError, match=r"config.model: 'a' → 'b'"):
        reduced(storage, refit, encoded(storage, [*range(80)], rows, model="b"))


def table_of(run: dict[str, Artifact], label: str, name: str, value: str) -> dict[int, Any]:
    rows = run[label].read_table(name, [USER_IDX, value]).to_pylist()
    return {row[USER_IDX]: row[value] for row in rows}


@pytest.mark.timeout(900)
def test_one_per_cent_more_interactions_change_the_touched_users_alone(raw: Path, tmp_path: Path) -> None:
    storage = Storage.from_config(StorageConfig(uri=str(tmp_path / "storage")))
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY + f"storage: {{uri: {tmp_path / 'storage'}}}\n")
    shared = ["arms=[distilled]", "evaluate.baselines=[popularity]", "profile.engine.kind=keywords",
              "profile.engine.max_terms=60"]

    def run(name: str, folder: Path, *more: str) -> dict[str, Artifact]:
        process = cli_here("run", "--config", str(config), f"name={name}",
                           f"prepare.source={{kind: movielens, folder: {folder}}}", *shared, *more)
        assert process.returncode == 0, process.stderr
        found = json.loads((tmp_path / "storage" / "runs" / name / "references.json").read_text())
        opened = {label: artifacts.open_artifact(storage, label.partition("/")[0], fp) for label, fp in found.items()}
        return {label: artifact for label, artifact in opened.items() if artifact is not None}

    old = run("before", raw)
    new = run("after", grown(raw, tmp_path / "grown"), f"prepare.extends={old['prepare'].fingerprint}",
              f"reduce.fitted_by={old['reduce'].fingerprint}",
              f"train.init_from={old['train/distilled/seed-0'].fingerprint}")
    histories = [table_of(r, "prepare", "histories", ITEMS) for r in (old, new)]
    texts = [table_of(r, "profile", "profiles", PROFILE) for r in (old, new)]
    reduced = [read_targets(r["reduce"]) for r in (old, new)]
    vectors = [dict(zip(r.owners_N.tolist(), r.vectors_NP.tolist(), strict=True)) for r in reduced]
    everyone = {*histories[0], *histories[1]}
    assert len(everyone) == USERS + 1
    touched = {u for u in everyone if histories[0].get(u) != histories[1].get(u)}
    told_anew = {u for u in everyone if texts[0].get(u) != texts[1].get(u)}
    assert 5 < len(touched) < 0.15 * USERS
    assert told_anew <= touched, "a text changed though its user's history did not"
    same_words = touched - told_anew  # one more item of words that are told already, or that too few items share
    assert len(same_words) <= 0.2 * len(touched)
    unchanged = vectors[0].keys() - told_anew  # a user without a telling word has no profile, before and after
    for user in unchanged:
        np.testing.assert_allclose(vectors[1][user], vectors[0][user], atol=1e-6)
    assert all(vectors[1].get(user) != vectors[0].get(user) for user in told_anew)
    assert new["reduce"].manifest.info["kept_rows"] == len(unchanged) > 0.8 * USERS
    assert new["train/distilled/seed-0"].manifest.info["start"]["fresh_items"] == 0
    assert (tmp_path / "storage" / "runs" / "after" / "report.html").exists()
