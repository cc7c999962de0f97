"""Which raw files are read, in which order their rows count, and MovieLens as it is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from configs.errors import DataError
from pipeline.prepare.config import InteractionColumns, MovieLensSource, TableSource
from pipeline.prepare.entities import item_text
from pipeline.prepare.ordering import in_time
from pipeline.prepare.raw import ATTRIBUTE, FIELD, TAG
from pipeline.prepare.sources import read_source
from pipeline.store.columns import CATEGORY, ITEM_ID, SIGNAL, TIMESTAMP, TITLE, USER_ID
from tests.raw_files import CSV, EXPECTED, encode_all, only_block, read

# --- paths ---


def test_folders_brackets_and_marks(tmp_path: Path) -> None:
    day = tmp_path / "[2024] export" / "day"
    (day / "b=2").mkdir(parents=True)
    (day / "_temporary").mkdir()
    (day / "part-1.csv").write_text(CSV)
    (day / "b=2" / "part-0.csv").write_text(CSV)
    (day / "_SUCCESS").touch()
    (day / ".part-1.csv.crc").write_bytes(b"crc\0")
    (day / "_temporary" / "part-0.csv").write_text("half")
    assert read(day / "part-1.csv") == EXPECTED
    assert read(day) == EXPECTED * 2
    assert read(f"file://{day}/part-1.csv") == EXPECTED
    plain = tmp_path / "day"
    day.rename(plain)
    assert read(plain / "*.csv") == EXPECTED
    (plain / "b=2" / "part-0.csv").unlink()
    assert read(plain / "*") == EXPECTED


def test_links_are_followed_and_no_folder_is_read_twice(tmp_path: Path) -> None:
    raw, far = tmp_path / "raw", tmp_path / "far"
    raw.mkdir()
    (far / "deep").mkdir(parents=True)
    (raw / "part-0.csv").write_text(CSV)
    (far / "deep" / "part-1.csv").write_text(CSV)
    (raw / "day").symlink_to(far)
    (far / "deep" / "loop").symlink_to(raw)
    assert read(raw / "**" / "*.csv") == EXPECTED * 2
    (raw / "day-again").symlink_to(far)
    assert read(raw) == EXPECTED * 2
    assert read(raw / "day*" / "deep" / "*") == EXPECTED


def test_a_glob_reads_hidden_files_only_where_it_names_them(tmp_path: Path) -> None:
    run = tmp_path / "_runs" / "day"
    for folder in (run, run / "_temporary" / "0", run / ".spark"):
        folder.mkdir(parents=True)
        (folder / "part-0.csv").write_text(CSV)
    (run / "_part-1.csv").write_text(CSV)
    every = tmp_path / "_runs"
    assert read(every / "**" / "*.csv") == read(every / "*" / "*.csv") == EXPECTED
    assert read(every / "*" / "_temp*" / "**" / "*.csv") == EXPECTED
    assert read(every / "**" / "_part*") == EXPECTED
    with pytest.raises(DataError, match=r"no file matches '.*' \(those that begin with '_' or '.', or lie in such a"):
        read(every / "*" / "*" / "0" / "*")


@pytest.mark.parametrize(("path", "message"), [
    ("s3://bucket/events.parquet", "got 's3://bucket/events.parquet'; legal: local paths only; copy the files from s3://"),
    ("https://host/events.csv", "legal: local paths only"), ("{}/empty", "holds no files"),
])
def test_paths_that_cannot_be_read(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        read(path.format(tmp_path))
    assert message in str(caught.value)


# --- the file's order ---


def ordered(path: Path, **settings: Any) -> list[tuple[str, str, int]]:
    encoded = in_time(encode_all(read_source(TableSource(interactions=str(path), **settings))), seed=0)
    found = only_block(encoded)
    assert found.times is not None
    return [(encoded.user_ids[int(user)], encoded.item_ids[int(item)], int(when))
            for user, item, when in zip(found.users, found.items, found.times, strict=True)]


def test_file_order_decides_ties_and_places_rows_without_a_time(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("user_id,item_id,timestamp\n"
                    "a,late,30\nb,none,\na,m,10\na,after m,\nb,first,20\na,n,10\na,o,10\nc,alone, \nb,second,20\n")
    assert ordered(path, file_order=True) == [
        ("a", "m", 10), ("a", "after m", 10), ("a", "n", 10), ("a", "o", 10), ("a", "late", 30),
        ("b", "none", 20), ("b", "first", 20), ("b", "second", 20), ("c", "alone", 10)]
    with pytest.raises(DataError, match="3 rows with a missing or unreadable time"):
        ordered(path)


@pytest.mark.parametrize(("when", "message"), [("soon", "1 row with a missing or unreadable time: data row 2"),
                                               ("-5", "1 row with a negative time")])
def test_file_order_lets_no_bad_time_pass(tmp_path: Path, when: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"user_id,item_id,timestamp\na,x,10\na,y,{when}\n")
    with pytest.raises(DataError, match=message):
        ordered(path, file_order=True)


def test_no_time_at_all(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("user_id,item_id,timestamp\na,x,\na,y,\n")
    with pytest.raises(DataError, match=r"no row has a time; set prepare.source.columns.timestamp=null"):
        ordered(path, file_order=True)


# --- MovieLens as published ---

RATINGS = "1::1193::5::978300760\n1::661::3::978302109\n"
MOVIES = "1193::Café Society: The Fly (1975)::Drama\n661::James (1996)::Animation|Children's\n"


def published(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).write_bytes(text.encode("latin-1"))
    return folder


def test_movielens_1m_by_its_own_source_and_by_the_table(tmp_path: Path) -> None:
    folder = published(tmp_path, {"ratings.dat": RATINGS, "movies.dat": MOVIES, "users.dat": "1::F::1::10::48067\n"})
    own = read_source(MovieLensSource(folder=str(folder), user_attributes=True))
    table = read_source(TableSource(
        interactions=f"{folder}/ratings.dat", items=f"{folder}/movies.dat", users=f"{folder}/users.dat", separator="::",
        columns=InteractionColumns(user=1, item=2, timestamp=4, signal=3), encoding="latin-1", item_id=1, title=2,
        category=3, text_fields={"genres": 3}, user_id=1, attributes={"gender": 2, "zip": 5}))
    for raw in (own, table):
        assert raw.items is not None
        assert raw.interactions.select(USER_ID, ITEM_ID, TIMESTAMP, SIGNAL).collect().rows() == [
            ("1", "1193", 978300760, 5.0), ("1", "661", 978302109, 3.0)]
        told = item_text(pl.Series(["1193", "661"]), raw).table
        assert told.select(TITLE, CATEGORY, FIELD + "title").rows() == [
            ("Café Society: The Fly (1975)", "Drama", "Café Society: The Fly (1975)"),
            ("James (1996)", "Animation", "James (1996)")]
    assert own.items is not None and own.users is not None and table.items is not None and table.users is not None
    assert own.items.select(FIELD + "year", FIELD + "genres").collect().rows() == [
        ("1975", "Drama"), ("1996", "Animation, Children's")]
    assert own.users.collect().rows() == [("1", "female", "under 18", "K-12 student")]
    assert table.items.collect_schema().names()[3:] == [FIELD + "title", FIELD + "genres"]
    assert table.users.collect().to_dicts() == [{USER_ID: "1", ATTRIBUTE + "gender": "F", ATTRIBUTE + "zip": "48067"}]


def test_movielens_100k_by_its_own_source_and_by_the_table(tmp_path: Path) -> None:
    flags = ["0"] * 19
    flags[3] = flags[4] = "1"
    item = "|".join(["1", "Á Toy Story (1995)", "01-Jan-1995", "", "http://us.imdb.com/?Toy%20Story", *flags])
    folder = published(tmp_path, {"u.data": "196\t1\t3\t881250949\n", "u.item": item + "\n",
                                  "u.user": "196|24|M|technician|85711\n"})
    own = read_source(MovieLensSource(folder=str(folder), user_attributes=True))
    assert own.items is not None and own.users is not None
    assert own.items.select(ITEM_ID, TITLE, CATEGORY, FIELD + "genres", FIELD + "year").collect().rows() == [
        ("1", "Á Toy Story (1995)", "Animation", "Animation, Children's", "1995")]
    assert own.users.collect().rows() == [("196", "male", "24", "technician")]
    ratings = [("196", "1", 881250949, 3.0)]
    assert own.interactions.select(USER_ID, ITEM_ID, TIMESTAMP, SIGNAL).collect().rows() == ratings
    assert read(folder / "u.data", separator="tab",
                columns=InteractionColumns(user=1, item=2, timestamp=4, signal=3)) == ratings


def test_movielens_10m_has_tags(tmp_path: Path) -> None:
    published(tmp_path, {"ratings.dat": RATINGS, "tags.dat": "1::661::good: very::978302109\n"})
    (tmp_path / "movies.dat").write_text(MOVIES, encoding="utf-8")
    raw = read_source(MovieLensSource(folder=str(tmp_path), tags=True))
    assert raw.tags is not None and raw.items is not None
    assert raw.tags.select(ITEM_ID, TAG, TIMESTAMP).collect().rows() == [("661", "good: very", 978302109)]
    assert raw.items.collect()[TITLE][0] == "Café Society: The Fly (1975)"
    with pytest.raises(DataError, match=r"no file .*users\.dat"):
        read_source(MovieLensSource(folder=str(tmp_path), user_attributes=True))
