"""The guards must be able to fail: every kind of corrupted file is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.storage import Storage
from configs.errors import DataError, LeakageError
from pipeline.prepare import keys
from pipeline.prepare.config import (
    GlobalTemporalSplit,
    InteractionColumns,
    LeaveOneOutSplit,
    PrepareConfig,
    PrepareExecution,
    SessionsSplit,
    SplitConfig,
    TableSource,
)
from pipeline.prepare.guards import WrittenInteractions, check_cases, check_written
from pipeline.prepare.stage import prepare
from pipeline.profile.guards import check_training_part
from pipeline.store import artifacts
from pipeline.store.arrow import open_arrow, write_arrow
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import (
    HISTORY,
    ITEM_ID,
    ITEM_IDX,
    ITEMS,
    POSITION,
    SPLIT,
    TARGET,
    TIMESTAMP,
    TRAIN,
    USER_ID,
    USER_IDX,
    VALIDATION,
)

SPLITS: dict[str, SplitConfig] = {
    "leave_one_out": LeaveOneOutSplit(), "global_temporal": GlobalTemporalSplit(), "sessions": SessionsSplit()}


def build(tmp_path: Path, storage: Storage, split: SplitConfig) -> Artifact:
    rng = np.random.default_rng(0)
    lines = [f"u{u},i{rng.integers(30)},{rng.integers(10_000)},{rng.integers(1, 6)}" for u in range(40)
             for _ in range(rng.integers(2, 12))]
    (tmp_path / "t.csv").write_text("user_id,item_id,timestamp,rating\n" + "\n".join(lines) + "\n")
    config = PrepareConfig(source=TableSource(interactions=str(tmp_path / "t.csv"),
                                              columns=InteractionColumns(signal="rating")),
                           split=split, execution=PrepareExecution(history_rows=7))
    return prepare(config, artifacts.begin(storage, keys.key(config)))


@pytest.fixture(params=list(SPLITS))
def built(request: pytest.FixtureRequest, tmp_path: Path, storage: Storage) -> tuple[Artifact, SplitConfig]:
    return build(tmp_path, storage, SPLITS[request.param]), SPLITS[request.param]


@pytest.fixture
def temporal(tmp_path: Path, storage: Storage) -> Artifact:
    return build(tmp_path, storage, SPLITS["global_temporal"])


def check(artifact: Artifact, split: SplitConfig) -> None:
    check_written(artifact.local("."), split, artifact.read_json("stats.json")["boundary"])


Edit = Callable[[dict[str, list[Any]]], Any]


def edit(path: Path, change: Edit) -> None:
    """Rewrite a Parquet or Arrow file with changed columns of the same types."""
    arrow = path.suffix == ".arrow"
    table = open_arrow(path) if arrow else pq.read_table(path)
    columns = table.to_pydict()
    change(columns)
    fresh = pa.table({name: pa.array(values, table.schema.field(name).type) for name, values in columns.items()})
    del table
    if arrow:
        write_arrow(path, fresh)
    else:
        pq.write_table(fresh, path)


def test_sound_files_pass(built: tuple[Artifact, SplitConfig]) -> None:
    check(*built)
    check_training_part(built[0])


# --- leakage ---


def test_interaction_after_the_boundary_in_training(temporal: Artifact) -> None:
    def leak(c: dict[str, list[Any]]) -> None:
        row = next(n for n, part in enumerate(c[SPLIT]) if part == TRAIN and (
            n + 1 == len(c[SPLIT]) or c[USER_IDX][n + 1] != c[USER_IDX][n]))
        c[TIMESTAMP][row] = 10**9

    edit(temporal.local("interactions.parquet"), leak)
    with pytest.raises(LeakageError, match=r"1 interactions after the boundary \d+ are outside the test part"):
        check(temporal, SPLITS["global_temporal"])


def test_test_row_relabelled_as_training(temporal: Artifact) -> None:
    def leak(c: dict[str, list[Any]]) -> None:
        c[SPLIT][c[SPLIT].index("test")] = TRAIN

    edit(temporal.local("interactions.parquet"), leak)
    with pytest.raises(LeakageError, match="after the boundary"):
        check(temporal, SPLITS["global_temporal"])


def test_validation_user_in_training(built: tuple[Artifact, SplitConfig]) -> None:
    artifact, split = built

    def leak(c: dict[str, list[Any]]) -> None:
        user = c[USER_IDX][c[SPLIT].index(VALIDATION)]
        c[SPLIT] = [TRAIN if u == user and s == VALIDATION else s for u, s in zip(c[USER_IDX], c[SPLIT], strict=True)]

    edit(artifact.local("interactions.parquet"), leak)
    with pytest.raises(LeakageError):
        check(artifact, split)


@pytest.mark.parametrize(("split", "file"), [("global_temporal", "validation.arrow"), ("sessions", "validation.arrow"),
                                             ("sessions", "test.arrow")])
def test_held_out_user_whom_every_file_calls_training(tmp_path: Path, storage: Storage, split: str, file: str) -> None:
    artifact = build(tmp_path, storage, SPLITS[split])
    written = WrittenInteractions.read(artifact.local("."))
    check_cases(written, file, whole_users=True)
    user = int(open_arrow(artifact.local(file))[USER_IDX][0].as_py())
    with pytest.raises(LeakageError, match=f"user {user} is held out whole but has training rows"):
        trained_M = np.diff(written.starts_M) * (np.arange(len(written.trained_M)) == user)
        check_cases(replace(written, trained_M=written.trained_M + trained_M), file, whole_users=True)


def test_training_file_with_a_held_out_item_more(built: tuple[Artifact, SplitConfig]) -> None:
    artifact, split = built

    def leak(c: dict[str, list[Any]]) -> None:
        c[ITEMS][0].append(1)

    edit(artifact.local("train.arrow"), leak)
    with pytest.raises(LeakageError, match=r"train.arrow: is not exactly the training part"):
        check(artifact, split)


@pytest.mark.parametrize("change", [
    lambda c: c.__setitem__(ITEMS, [x[::-1] for x in c[ITEMS]]),
    lambda c: c[ITEMS][0].__setitem__(0, c[ITEMS][0][0] % 20 + 1),
    lambda c: c[USER_IDX].__setitem__(0, c[USER_IDX][0] + 1),
    lambda c: c["timestamps"][0].__setitem__(0, 3),
    lambda c: c["signals"][0].__setitem__(0, None),
    lambda c: [column.pop() for column in c.values()],
], ids=["order", "item", "user", "time", "signal", "missing user"])
def test_histories_that_are_not_the_training_part(temporal: Artifact, change: Edit) -> None:
    edit(temporal.local("histories/part-00001.parquet"), change)
    with pytest.raises(LeakageError, match="the histories are not exactly the training part"):
        check(temporal, SPLITS["global_temporal"])


def test_target_that_is_a_training_row(tmp_path: Path, storage: Storage) -> None:
    artifact = build(tmp_path, storage, SPLITS["leave_one_out"])

    def leak(c: dict[str, list[Any]]) -> None:  # ask for an item in the middle of the training part
        c[TARGET][0] = c[HISTORY][0].pop()

    edit(artifact.local("validation.arrow"), leak)
    with pytest.raises(LeakageError, match=r"validation.arrow: the target of user \d+ is a training row"):
        check(artifact, SPLITS["leave_one_out"])


@pytest.mark.parametrize("file", ["validation.arrow", "test.arrow"])
def test_case_with_another_target(built: tuple[Artifact, SplitConfig], file: str) -> None:
    artifact, split = built

    def change(c: dict[str, list[Any]]) -> None:
        c[TARGET][0] = c[TARGET][0] % 20 + 1

    edit(artifact.local(file), change)
    with pytest.raises(LeakageError, match="histories and targets are not their users' rows"):
        check(artifact, split)


def test_case_with_a_foreign_history(temporal: Artifact) -> None:
    def change(c: dict[str, list[Any]]) -> None:
        c[HISTORY][0][0] = c[HISTORY][0][0] % 20 + 1

    edit(temporal.local("test.arrow"), change)
    with pytest.raises(LeakageError, match="histories and targets are not their users' rows"):
        check(temporal, SPLITS["global_temporal"])


# --- ids and order ---


def set_first(column: str, value: Any) -> Edit:
    return lambda c: c[column].__setitem__(0, value)


@pytest.mark.parametrize(("file", "change", "message"), [
    ("items.parquet", set_first(ITEM_IDX, 0), "0 is used as an item"),
    ("interactions.parquet", set_first(ITEM_IDX, 0), "0 is used as an item"),
    ("interactions.parquet", set_first(ITEM_IDX, 999), r"not in 1…\d+"),
    ("items.parquet", set_first(ITEM_IDX, 2), "item_idx is not 1, 2, 3"),
    ("users.parquet", set_first(USER_IDX, 1), "user_idx is not 0, 1, 2"),
    ("items.parquet", lambda c: c[ITEM_ID].__setitem__(0, c[ITEM_ID][1]), "item_id is missing or stands twice"),
    ("users.parquet", lambda c: c[USER_ID].__setitem__(0, c[USER_ID][1]), "user_id is missing or stands twice"),
    ("users.parquet", set_first(USER_ID, None), "user_id is missing or stands twice"),
    ("interactions.parquet", lambda c: c[USER_IDX].__setitem__(0, 5), "users are not 0…39"),
    ("interactions.parquet", lambda c: c[POSITION].__setitem__(1, 0), "positions do not count"),
    ("interactions.parquet", lambda c: c[TIMESTAMP].__setitem__(0, 9_999), "not in the order of time"),
    ("test.arrow", lambda c: c[USER_IDX].__setitem__(1, c[USER_IDX][0]), "a user stands twice"),
    ("test.arrow", lambda c: c[HISTORY][0].clear(), "a history is empty"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_broken_ids_and_order(temporal: Artifact, file: str, change: Edit, message: str) -> None:
    edit(temporal.local(file), change)
    with pytest.raises(DataError, match=message):
        check(temporal, SPLITS["global_temporal"])


# --- what the profile stage asks ---


@pytest.mark.parametrize("change", [
    lambda c: c[ITEMS][0].append(1),
    lambda c: c[ITEMS][0].reverse(),
    lambda c: c[USER_IDX].__setitem__(0, 10**6),
    lambda c: [column.pop() for column in c.values()],
], ids=["one more item", "order", "user", "missing user"])
def test_profile_inputs_beyond_the_training_part(temporal: Artifact, change: Edit) -> None:
    assert len(list(temporal.local("histories").iterdir())) > 2
    part = temporal.local("histories/part-00000.parquet")
    edit(part, lambda c: c[ITEMS][0].extend([1, 2]))
    with pytest.raises(LeakageError):
        check_training_part(temporal)
    edit(part, lambda c: c[ITEMS][0].__delitem__(slice(-2, None)))
    check_training_part(temporal)
    edit(part, change)
    with pytest.raises(LeakageError, match="training"):
        check_training_part(temporal)
