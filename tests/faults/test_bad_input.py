"""Bad raw data: one line that names the file, the row and the remedy, and never half an artifact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cluster.storage import Storage
from configs.errors import DataError
from pipeline.prepare import keys
from pipeline.prepare.config import (
    AmazonM2Source,
    AmazonReviewsSource,
    FilterConfig,
    GlobalTemporalSplit,
    InteractionColumns,
    KionSource,
    MovieLensSource,
    PrepareConfig,
    SequencesSource,
    SourceConfig,
    TableSource,
)
from pipeline.prepare.stage import prepare
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import USER_ID

HEADER = "user_id,item_id,timestamp,rating\n"
GOOD = HEADER + "".join(f"u{u},i{i},{1_500_000_000 + 60 * u + i},4\n" for u in range(6) for i in range(4))


def config_for(path: Path, **settings: Any) -> PrepareConfig:
    filters = settings.pop("filter", FilterConfig())
    split = {"split": settings.pop("split")} if "split" in settings else {}
    return PrepareConfig(source=TableSource(interactions=str(path), columns=InteractionColumns(signal="rating"),
                                            **settings), filter=filters, **split)


def run(config: PrepareConfig, storage: Storage) -> Artifact:
    return prepare(config, artifacts.begin(storage, keys.key(config)))


def refused(config: PrepareConfig, storage: Storage) -> str:
    """The message of the error; no artifact is there afterwards."""
    with pytest.raises(DataError) as caught:
        run(config, storage)
    message = str(caught.value)
    assert "\n" not in message
    assert not list(Path(storage.base).rglob("manifest.json"))
    return message


# --- rows ---


@pytest.mark.parametrize(("row", "problem", "value", "legal"), [
    (",i1,1500000500,4", "a missing user id", "empty", "any text or whole number"),
    ("u1,,1500000500,4", "a missing item id", "empty", "any text or whole number"),
    ("u1,NaN,1500000500,4", "a missing item id", "'NaN'", "prepare.source.missing_words"),
    ("u1,i1,,4", "a missing or unreadable time", "empty", "YYYYMMDD"),
    ("u1,i1,soon,4", "a missing or unreadable time", "'soon'", "1600000000.25"),
    ("u1,i1,NaN,4", "a missing or unreadable time", "'NaN'", "2020-09-13"),
    ("u1,i1,-1500000500,4", "a negative time", "'-1500000500'", "from 1970-01-01 on"),
    ("u1,i1,5000000000,4", "a time after the year 2100", "'5000000000'", "timestamp_unit"),
    ("u1,i1,1500000500,inf", "a signal that is not a finite number", "'inf'", "4.5 or 4,5"),
    ("u1,i1,1500000500,good", "a signal that is not a finite number", "'good'", "4.5 or 4,5"),
    ('u1,i1,1500000500,"1,500"', "a signal that is not a finite number", "'1,500'", "4.5 or 4,5"),
])
def test_bad_row_is_named_with_its_number_and_may_be_dropped(tmp_path: Path, storage: Storage, row: str,
                                                             problem: str, value: str, legal: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(GOOD + row + "\n")
    message = refused(config_for(path), storage)
    assert message.startswith(f"{path}: 1 row with {problem}: data row 25 ({value}); legal: ")
    assert legal in message
    assert "prepare.filter.bad_rows=drop" in message
    artifact = run(config_for(path, filter=FilterConfig(bad_rows="drop")), storage)
    assert (artifact.manifest.counts["num_out"], artifact.manifest.counts["num_rejected"]) == (24, 1)


def test_many_bad_rows_are_counted_and_the_first_five_shown(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "t.csv"
    path.write_text(GOOD + "u1,,1500000500,4\n" * 7 + "u1,i1,-3,4\n")
    assert refused(config_for(path), storage) == (
        f"{path}: 7 rows with a missing item id: data row 25 (empty), data row 26 (empty), data row 27 (empty), "
        "data row 28 (empty), data row 29 (empty) …; further: 1 with a negative time; legal: any text or whole number "
        "but an empty one and prepare.source.missing_words; mend the file, or set prepare.filter.bad_rows=drop to drop "
        "and count them")


def test_seconds_and_milliseconds_together_are_refused_even_when_bad_rows_are_dropped(tmp_path: Path,
                                                                                      storage: Storage) -> None:
    path = tmp_path / "t.csv"
    path.write_text(GOOD + "u1,i1,1500000500000,4\n")
    message = refused(config_for(path, filter=FilterConfig(bad_rows="drop")), storage)
    assert "24 rows in s, 1 rows in ms (such as 1500000500000 in data row 25); bring all to one unit" in message


def test_milliseconds_alone_are_understood(tmp_path: Path, storage: Storage, capsys: pytest.CaptureFixture[str]
                                           ) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEADER + GOOD.removeprefix(HEADER).replace(",4\n", "123,4\n"))
    stats = run(config_for(path, split=GlobalTemporalSplit(validation_users=0.5)), storage).read_json("stats.json")
    assert stats["first_time"] == "2017-07-14T02:40:00+00:00"
    assert 1_500_000_000 < stats["boundary"] < 1_500_000_400
    assert f"; boundary {stats['boundary_iso']} ({stats['boundary']})" in capsys.readouterr().err


def test_one_interaction_users_only_train_and_are_counted(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "t.csv"
    path.write_text(GOOD + "lonely,i1,1500000500,4\n")
    stats = run(config_for(path), storage).read_json("stats.json")
    assert (stats["users_with_one_interaction"], stats["train_users"], stats["test_users"]) == (1, 7, 6)


def test_one_item_catalogue_is_defined(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "".join(f"u{u},only,{100 * u + n},4\n" for u in range(3) for n in range(3)))
    stats = run(config_for(path), storage).read_json("stats.json")
    assert (stats["items"], stats["test_users"], stats["test_repeated_targets_share"]) == (1, 3, 1.0)


def test_items_outside_the_catalogue_are_counted_and_get_their_own_index(tmp_path: Path, storage: Storage) -> None:
    path, items = tmp_path / "t.csv", tmp_path / "items.csv"
    path.write_text(GOOD)
    items.write_text("item_id,title\ni0,Zero\ni9,Never bought\n")
    artifact = run(config_for(path, items=str(items)), storage)
    assert artifact.read_json("stats.json")["items_unknown"] == 3
    assert artifact.read_table("items.parquet")["item_idx"].to_pylist() == [1, 2, 3, 4]


def test_future_times_are_noted(tmp_path: Path, storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text(GOOD + "u1,i1,4000000000,4\n")
    run(config_for(path), storage)
    assert "the last interaction lies in the future, 2096-10-02" in capsys.readouterr().err


# --- files ---


@pytest.mark.parametrize(("name", "data", "message"), [
    ("t.csv", b"", "t.csv: the file has zero bytes"),
    ("t.csv", HEADER.encode(), "t.csv: holds no interactions"),
    ("t.csv", GOOD.encode() + b"caf\xe9,i1,1500000500,4\n",
     f"t.csv: byte {len(GOOD) + len('caf')} (0xe9) is not UTF-8; set prepare.source.encoding"),
    ("t.csv", GOOD.encode("utf-16"), "t.csv: looks like UTF-16 (first bytes ff fe 75 00), read as utf-8"),
    ("t.csv", GOOD.encode("utf-16-be"), "t.csv: looks like UTF-16 (first bytes 00 75 00 73), read as utf-8"),
    ("t.csv", b"user,item_id,timestamp,rating\na,b,1,4\n",
     "t.csv: no column 'user_id'; present: user, item_id, timestamp, rating"),
    ("t.csv", b"user_id,item_id,timestamp,rating,rating\na,b,1,4,4\n", "t.csv: column 'rating' stands twice"),
    ("t.csv", GOOD.encode() + b"u1,i1,1500000500,4,extra\n", "t.csv: cannot be read: data row 25 has 5 fields where"),
    ("t.csv", GOOD.encode() + b"u1,i1\n", "t.csv: cannot be read: data row 25 has 2 fields where the header has 4"),
    ("t.csv", GOOD.encode() + b'"u1,i1,1500000500,4\n', "t.csv: cannot be read: "),
    ("t.jsonl", b'{"user_id": "a", "item_id": "b", "timestamp": 1, "rating": 4}\n' * 200 + b'{"user_id": "a", \n',
     "t.jsonl: line 201 is not JSON"),
    ("t.jsonl", b"[1, 2]\n", "t.jsonl: line 1 is a JSON list; the file needs one object per line"),
    ("t.jsonl", b'{"user_id": "a", "item_id": "b", "timestamp": 1}\n', "t.jsonl: no column 'rating'; present: user_id"),
    ("t.parquet", b"PAR1" + b"\0" * 100, "t.parquet: not a whole Parquet file (its end is not the mark PAR1, 104 by"),
    ("t.parquet", GOOD.encode(), "t.parquet: not a whole Parquet file (its start is not the mark PAR1"),
    ("t.parquet", b"PAR1" + b"\xff" * 100 + b"PAR1", "t.parquet: cannot be read: "),
], ids=["zero bytes", "header only", "latin-1 byte", "utf-16", "utf-16 without mark", "missing column", "column twice",
        "row too long", "row too short", "open quote", "broken json", "json list", "missing json key",
        "truncated parquet", "no parquet", "corrupt footer"])
def test_damaged_file_is_named(tmp_path: Path, storage: Storage, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert message in refused(config_for(path), storage)


def truncated(path: Path) -> None:
    pl.read_csv(GOOD.encode()).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-50])


def damaged_pages(path: Path) -> None:
    pl.read_csv(GOOD.encode()).write_parquet(path)
    data = bytearray(path.read_bytes())
    data[8:200] = b"\xff" * 192
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncated, damaged_pages])
def test_damaged_parquet_among_good_ones_is_named(tmp_path: Path, storage: Storage,
                                                  damage: Callable[[Path], None]) -> None:
    pl.read_csv(GOOD.encode()).write_parquet(tmp_path / "part-0.parquet")
    damage(tmp_path / "part-1.parquet")
    assert "part-1.parquet" in refused(config_for(tmp_path / "part-*.parquet"), storage)


def test_row_of_the_second_file_is_located(tmp_path: Path, storage: Storage) -> None:
    (tmp_path / "part-0.csv").write_text(GOOD)
    (tmp_path / "part-1.csv").write_text(GOOD + "u1,,1500000500,4\n")
    assert f"{tmp_path / 'part-1.csv'}, data row 25" in refused(config_for(tmp_path / "part-*.csv"), storage)


def test_byte_order_mark_is_skipped(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(GOOD.encode("utf-8-sig"))
    assert run(config_for(path), storage).read_table("users.parquet")[USER_ID][0].as_py() == "u0"


def test_latin_1_is_read_when_the_config_says_so(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(GOOD.encode() + "café,i1,1500000500,4\n".encode("latin-1"))
    users = run(config_for(path, encoding="latin-1"), storage).read_table("users.parquet")[USER_ID].to_pylist()
    assert users[-1] == "café"


@pytest.mark.parametrize(("encoding", "message"), [
    ("utf-16", "t.csv: byte 0 is not utf-16 ("), ("cp424", "t.csv: byte 0 is not cp424 ("),
    ("klingon", "got 'klingon'; legal: a name Python knows")])
def test_wrong_encoding_key(tmp_path: Path, storage: Storage, encoding: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(GOOD.encode() + "café,i1,1500000500,4\n".encode())
    assert message in refused(config_for(path, encoding=encoding), storage)


# --- what is left, and what is missing ---


@pytest.mark.parametrize(("filters", "message"), [
    (FilterConfig(k_core=50), "prepare.filter.k_core=50 (iterated) leaves none of the 24 interactions"),
    (FilterConfig(min_signal=4.5), "prepare.filter.min_signal=4.5 leaves none of the 24 interactions"),
    (FilterConfig(k_core=5), "prepare.filter.k_core=5 (iterated) leaves none"),
])
def test_filter_that_empties_the_data_is_named(tmp_path: Path, storage: Storage, filters: FilterConfig,
                                               message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(GOOD)
    assert message in refused(config_for(path, filter=filters), storage)


@pytest.mark.parametrize(("rows", "message"), [
    ("u1,,1,4\n,i1,1,4\n", "2 rows is bad (1 with a missing user id, 1 with a missing item id)"),
    ("u1,,1,4\nu1,i1,9000000000,4\n", "2 rows is bad (1 with a missing item id, 1 with a time after the year 2100)"),
])
def test_only_bad_rows(tmp_path: Path, storage: Storage, rows: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEADER + rows)
    assert message in refused(config_for(path, filter=FilterConfig(bad_rows="drop")), storage)


@pytest.mark.parametrize(("source", "origin"), [
    (SequencesSource(), "McAuley"), (MovieLensSource(), "grouplens.org"),
    (AmazonReviewsSource(interactions="$MENTOREC_DATA/r.csv"), "McAuley"),
    (KionSource(folder="$MENTOREC_DATA/kion"), "MTS"), (AmazonM2Source(folder="$MENTOREC_DATA/m2"), "KDD Cup 2023"),
], ids=lambda value: getattr(value, "kind", ""))
def test_missing_data_set_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                   source: SourceConfig, origin: str) -> None:
    monkeypatch.delenv("MENTOREC_DATA", raising=False)
    with pytest.raises(DataError, match=rf"needs the environment variable MENTOREC_DATA, which is not set.*{origin}"):
        keys.key(PrepareConfig(source=source))
    monkeypatch.setenv("MENTOREC_DATA", str(tmp_path))
    with pytest.raises(DataError, match=rf"no file {tmp_path}/.*MENTOREC_DATA should name the folder.*{origin}"):
        keys.key(PrepareConfig(source=source))


def test_glob_without_a_match(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file matches '.*part-\*\.csv'"):
        keys.key(config_for(tmp_path / "part-*.csv"))
