"""The verdicts on the table of cases: each kind of check fails, with its words, where what it wants is not there."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.bench.case_checks import Check, Read
from tests.bench.cases import Outcome

AS_PREPARED = Read({"a": "Oak table"}, {"a": "Tables"}, {"u": ["b", "a"]}, {"u": 60}, {"u": {"age": "30"}})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output folder with one `prepare` artifact and one profile."""
    prepared = tmp_path / "artifacts" / "prepare" / "f00d" / "attempts" / "1"
    profiles = tmp_path / "artifacts" / "profile" / "f00d" / "attempts" / "1" / "profiles"
    for folder in (prepared, profiles):
        folder.mkdir(parents=True)
    pl.DataFrame({"item_idx": [1, 2], "item_id": ["a", "b"], "title": ["Oak table", None],
                  "category": ["Tables", None]}).write_parquet(prepared / "items.parquet")
    attributes = pa.array([[("age", "30")]], pa.map_(pa.string(), pa.string()))
    pq.write_table(pa.table({"user_idx": [0], "user_id": ["u"], "attributes": attributes}), prepared / "users.parquet")
    pl.DataFrame({"user_idx": [0, 0], "item_idx": [1, 2], "timestamp": [120, 60], "position": [1, 0]}).write_parquet(
        prepared / "interactions.parquet")
    pl.DataFrame({"profile": ["Buys tables."]}).write_parquet(profiles / "part-00000.parquet")
    return tmp_path


def test_what_holds_is_no_miss(out: Path) -> None:
    check = Check(0, (r"^done$",), ("^error",), ("artifacts/prepare/*/attempts",), AS_PREPARED, ("think>",))
    assert check.misses(0, "built\ndone\n", out) == []


@pytest.mark.parametrize(("check", "miss"), [
    (Check(2), "exit 0, not 2"),
    (Check(0, ("^one$",)), "not printed: ^one$"),
    (Check(0, (), ("done",)), "printed: done"),
    (Check(0, files=("artifacts/train/*",)), "not written: artifacts/train/*"),
    (Check(0, profiles_without=("tables",)), "in a profile: tables"),
    (Check(0, read=Read({"a": "Oak"})), "title of a: 'Oak table', not 'Oak'"),
    (Check(0, read=Read({"c": "Oak"})), "title of c: None, not 'Oak'"),
    (Check(0, read=Read(categories={"a": "Toys"})), "category of a: 'Tables', not 'Toys'"),
    (Check(0, read=Read(orders={"u": ["a", "b"]})), "order of u: ['b', 'a'], not ['a', 'b']"),
    (Check(0, read=Read(began={"u": 120})), "first time of u: 60, not 120"),
    (Check(0, read=Read(attributes={"u": {}})), "attributes of u: {'age': '30'}, not {}"),
])
def test_each_miss_is_told(check: Check, miss: str, out: Path) -> None:
    assert check.misses(0, "built\ndone\n", out) == [miss]


@pytest.mark.parametrize(("misses", "traceback", "counted", "as_expected"), [
    ([], False, "5 rows = 5 kept + 0 dropped", True),
    (["exit 1, not 0"], False, "", False),
    ([], True, "", False),
    ([], False, "5 rows ≠ 4 kept + 0 dropped", False),
    (None, False, "", None),
])
def test_a_traceback_and_lost_rows_are_no_success(misses: list[str] | None, traceback: bool, counted: str,
                                                  as_expected: bool | None) -> None:
    assert Outcome(0, [], [counted], traceback, misses).as_expected is as_expected


def test_nothing_prepared_is_a_miss(tmp_path: Path) -> None:
    assert Check(0, read=AS_PREPARED).misses(0, "", tmp_path) == ["nothing was prepared"]
