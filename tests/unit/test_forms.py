"""Any form that a raw file may have: read the same, or named in one line."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from configs.errors import ConfigError, DataError
from configs.loader import validate
from pipeline.prepare.config import InteractionColumns, MovieLensSource, TableSource
from pipeline.prepare.encoding import encode
from pipeline.prepare.ordering import in_time
from pipeline.prepare.raw import ATTRIBUTE, FIELD, TAG
from pipeline.prepare.sources import read_source
from pipeline.store.columns import CATEGORY, ITEM_ID, SIGNAL, TIMESTAMP, TITLE, USER_ID

ROWS = [("José", "007", "1500000000", "4.5"), ("b", "7", "1500000001", "2")]
NAMES = ("user_id", "item_id", "timestamp", "rating")
CSV = "\n".join(",".join(row) for row in (NAMES, *ROWS)) + "\n"
JSONL = "".join(json.dumps({"user_id": user, "item_id": item, "timestamp": int(when), "rating": float(score)}) + "\n"
                for user, item, when, score in ROWS)
RATED = InteractionColumns(signal="rating")


def read(path: Path | str, **settings: Any) -> list[tuple[Any, ...]]:
    """Users, items, seconds and signals of an interactions file."""
    settings.setdefault("columns", RATED)
    raw = read_source(TableSource(interactions=str(path), **settings))
    return raw.interactions.select(USER_ID, ITEM_ID, TIMESTAMP, SIGNAL).collect(engine="streaming").rows()


EXPECTED = [("José", "007", 1500000000, 4.5), ("b", "7", 1500000001, 2.0)]


def zipped(data: bytes, name: str = "inside.csv") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._inside.csv", b"mac")
        archive.writestr(name, data)
    return buffer.getvalue()


def zstd(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)  # type: ignore[no-any-return]


# --- packed, encoded, named as it pleases ---


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, zstd, zipped])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
@pytest.mark.parametrize(("name", "text"), [("t.csv", CSV), ("events", CSV), ("t.csv.gz", CSV), ("t.jsonl", JSONL),
                                            ("t.jsonl.gz", JSONL), ("events", JSONL)])
def test_text_is_told_by_its_first_bytes(tmp_path: Path, pack: Callable[[bytes], bytes], encoding: str, name: str,
                                         text: str) -> None:
    path = tmp_path / name
    path.write_bytes(pack(text.encode(encoding)))
    assert read(path, encoding=encoding) == EXPECTED


@pytest.mark.parametrize("name", ["t.parquet", "t.parq", "part-00000", "t.csv", "t.csv.gz"])
def test_parquet_is_told_by_its_first_bytes(tmp_path: Path, name: str) -> None:
    pl.read_csv(CSV.encode(), schema_overrides={"item_id": pl.String}).write_parquet(tmp_path / name)
    assert read(tmp_path / name) == EXPECTED


def foreign(kind: str, path: Path) -> None:
    table = pa.table({"user_id": ["a"], "item_id": ["b"]})
    match kind:
        case "feather":
            pyarrow.feather.write_feather(table, path)
        case "orc":
            pyarrow.orc.write_table(table, path)
        case "pickle":
            path.write_bytes(pickle.dumps(ROWS))
        case "xlsx":
            path.write_bytes(zipped(b"<x/>", "xl/workbook.xml"))
        case "two files":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a.csv", CSV)
                archive.writestr("b.csv", CSV)
        case "packed parquet":
            pq.write_table(table, path)
            path.write_bytes(gzip.compress(path.read_bytes()))
        case "tar":
            path.write_bytes(gzip.compress(b"a".ljust(257, b"\0") + b"ustar\0" + b"\0" * 300))
        case "sqlite":
            path.write_bytes(b"SQLite format 3\0" + b"\1" * 80)


@pytest.mark.parametrize(("kind", "words"), [
    ("feather", "an Arrow or Feather file, which is not read; legal: CSV and other delimited text, JSON lines, Parq"),
    ("orc", "an ORC file"), ("pickle", "a Python pickle"), ("xlsx", "an Excel workbook"), ("sqlite", "an SQLite data"),
    ("two files", "a zip archive of 2 files; legal: an archive of one text file"), ("tar", "a tar archive"),
    ("packed parquet", "a Parquet file packed with gzip; unpack it"),
])
def test_another_form_is_named(tmp_path: Path, kind: str, words: str) -> None:
    path = tmp_path / "t.csv"
    foreign(kind, path)
    with pytest.raises(DataError, match="t.csv: ") as caught:
        read(path)
    assert words in str(caught.value)


@pytest.mark.parametrize(("pack", "words"), [
    (gzip.compress, "damaged: its gzip content is cut off or changed"),
    (bz2.compress, "damaged: its bzip2 content is cut off or changed"),
    (zipped, "a damaged zip archive"),
])
def test_a_packed_file_that_was_cut_off(tmp_path: Path, pack: Callable[[bytes], bytes], words: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(pack(CSV.encode())[:-20])
    with pytest.raises(DataError, match=words):
        read(path)


def test_bytes_that_are_not_in_the_encoding_are_told_by_their_place_in_the_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(CSV.encode("latin-1")))
    with pytest.raises(DataError, match=rf"byte {CSV.index('é')} \(0xe9\) is not UTF-8; set prepare.source.encoding"):
        read(path)


# --- JSON lines ---


def test_json_constants_late_keys_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('\n{"user_id": "a", "item_id": 12345678901234567890123, "timestamp": 5}\r\n' * 101
                    + '{"user_id": "b", "item_id": "x", "timestamp": 1500000000.5, "rating": NaN}\n'
                      '{"user_id": "b", "item_id": "y", "timestamp": 6, "rating": 3}')
    rows = read(path)
    assert len(rows) == 103
    assert rows[0] == ("a", "12345678901234567890123", 5, None)
    assert rows[-1] == ("b", "y", 6, 3.0)
    assert rows[-2][3] is None  # NaN is no rating, as null is


@pytest.mark.parametrize(("text", "message"), [
    ('[\n {\n  "user_id": "a"', "this file is one JSON document; legal: JSON lines"),
    ('[{"user_id": "a"}]', "this file is one JSON document; legal: JSON lines"),
    ('{\n  "user_id": "a"\n}', "this file is one JSON document; legal: JSON lines"),
    (JSONL + '{"user_id"', "line 3 is not JSON"), (JSONL + "7\n", "line 3 is a JSON number"),
    (JSONL + "[" * 100_000 + "\n", "line 3 is n"),
    (JSONL.replace('"007"', '["007"]'), "'item_id' holds lists; legal: text or whole numbers"),
    (JSONL.replace("1500000000", '{"s": 1}'), "column 'timestamp' holds objects; legal: dates"),
])
def test_bad_json_lines(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read(path)
    assert message in str(caught.value)


# --- Parquet types ---


def parquet(path: Path, **columns: Any) -> Path:
    table = {"user_id": pa.array(["a", "b"]), "item_id": pa.array(["x", "y"]),
             "timestamp": pa.array([1500000000, 1500000001]), "rating": pa.array([1.0, None])}
    pq.write_table(pa.table(table | columns), path)
    return path


@pytest.mark.parametrize(("column", "values"), [
    ("user_id", pa.array(["a", "b"]).dictionary_encode()), ("user_id", pa.array([b"a", b"b"])),
    ("item_id", pa.array(["x", "y"], pa.large_string())), ("item_id", pa.array(["x", "y"], pa.string_view())),
    ("timestamp", pa.array([Decimal(1500000000), Decimal(1500000001)], pa.decimal128(18, 0))),
    ("timestamp", pa.array(["1500000000", "1500000001"]).dictionary_encode()),
    ("rating", pa.array([True, None])), ("rating", pa.array([1.0, None], pa.float16())),
    ("rating", pa.array([Decimal("1.00"), None], pa.decimal128(5, 2))),
    ("rating", pa.array([1, None]).dictionary_encode()),
])
def test_parquet_types_that_mean_the_same(tmp_path: Path, column: str, values: pa.Array) -> None:
    assert read(parquet(tmp_path / "t.parquet", **{column: values})) == [
        ("a", "x", 1500000000, 1.0), ("b", "y", 1500000001, None)]


def test_a_parquet_column_without_values_is_missing_values(tmp_path: Path) -> None:
    assert read(parquet(tmp_path / "t.parquet", rating=pa.nulls(2))) == [
        ("a", "x", 1500000000, None), ("b", "y", 1500000001, None)]
    for name in ("user_id", "timestamp"):
        with pytest.raises(DataError, match="2 rows with a missing"):
            raw = read_source(TableSource(interactions=str(parquet(tmp_path / "t.parquet", **{name: pa.nulls(2)}))))
            encode(raw, "error")


@pytest.mark.parametrize(("column", "values", "message"), [
    ("timestamp", [timedelta(1)] * 2, "'timestamp' holds durations; legal: dates, times with a date, or numbers"),
    ("timestamp", [time(1)] * 2, "'timestamp' holds times of day without a date"),
    ("item_id", [["x"], []], "'item_id' holds lists of text; legal: text or whole numbers, one id per row"),
    ("item_id", [{"i": "x"}] * 2, "'item_id' holds structs"), ("user_id", [date(2020, 1, 1)] * 2, "holds dates"),
    ("user_id", [True, False], "'user_id' holds true and false"), ("rating", [[1.0]] * 2, "'rating' holds lists of"),
    ("user_id", [b"\xff", b"a"], "'user_id' holds bytes that are not UTF-8 text"),
])
def test_parquet_types_that_cannot_be_meant(tmp_path: Path, column: str, values: list[Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(parquet(tmp_path / "t.parquet", **{column: pa.array(values)}))
    assert message in str(caught.value)


# --- separators, headers ---


@pytest.mark.parametrize(("given", "separator"), [("::", "::"), ("\t", "\t"), (r"\t", "\t"), ("t", "\t"), ("tab", "\t"),
                                                  ("|", "|"), ("|~|", "|~|"), (";", ";")])
@pytest.mark.parametrize("header", [True, False])
def test_any_separator_with_and_without_a_header(tmp_path: Path, given: str, separator: str, header: bool) -> None:
    path = tmp_path / "u.data"
    path.write_text("".join(separator.join(row) + "\n" for row in ((NAMES, *ROWS) if header else ROWS)))
    columns = RATED if header else InteractionColumns(user=1, item=2, timestamp=3, signal=4)
    assert read(path, separator=given, columns=columns) == EXPECTED


def test_a_long_separator_across_the_edge_of_what_is_read_at_once(tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.prepare.streams._CHUNK_BYTES", 3)
    path = tmp_path / "u.data"
    path.write_text("".join("::".join(row) + "\n" for row in ROWS) + "c:x::a:b::1::3")
    columns = InteractionColumns(user=1, item=2, timestamp=3, signal=4)
    assert read(path, separator="::", columns=columns) == [*EXPECTED, ("c:x", "a:b", 1, 3.0)]
    path.write_text(path.read_text() + "::\n")
    with pytest.raises(DataError, match=r"data row 3 has 5 fields where the first line has 4"):
        read(path, separator="::", columns=columns)


@pytest.mark.parametrize(("settings", "message"), [
    ({"separator": "x"}, "separator: got 'x'; legal: one or several signs"),
    ({"separator": '"'}, "legal: one or several signs"),
    ({"columns": {"user": 1, "item": "i"}}, "the columns of interactions are partly names and partly positions"),
])
def test_settings_that_cannot_be_meant(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(TableSource, {"interactions": "x"} | settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [
    (CSV.replace(",", ";"), r"the header holds ';': set prepare.source.separator=';'"),
    (CSV.replace(",", "\t"), r"set prepare.source.separator='\\t'"),
    (CSV.split("\n", 1)[1], "the first line looks like data: of a file without a header name columns by their po"),
    (CSV.replace("rating", "stars"), "no column 'rating'; present: user_id, item_id, timestamp, stars; mend the head"),
])
def test_a_missing_column_says_what_to_set(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read(path)
    assert message in str(caught.value)


def test_a_header_of_odd_names_is_told_in_one_short_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('"user_id\nx",' + ",".join(f"c{n:05}" * 20 for n in range(100)) + "\n" + "," * 100 + "\n")
    with pytest.raises(DataError, match=r"present: 'user_id\\nx', c00000.*… and 71 more; mend") as caught:
        read(path)
    assert len(str(caught.value)) < 2_400


def test_a_position_beyond_the_last_column(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,x,1,2\n")
    with pytest.raises(DataError, match="no column '5'; present: 1, 2, 3, 4; positions go from 1 to 4"):
        read(path, columns=InteractionColumns(user=1, item=2, timestamp=5))


def test_quotes_that_enclose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("\t".join(NAMES) + '\n"a\tx\t5\t1\n')
    assert read(path, separator="tab", quotes=False) == [('"a', "x", 5, 1.0)]
    with pytest.raises(DataError, match="t.tsv: cannot be read"):
        read(path, separator="tab")


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
    encoded = in_time(encode(read_source(TableSource(interactions=str(path), **settings)), "error"), seed=0)
    found = encoded.interactions
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
        assert raw.items.select(ITEM_ID, TITLE, CATEGORY, FIELD + "title").collect().rows() == [
            ("1193", "Café Society: The Fly (1975)", "Drama", "Café Society: The Fly (1975)"),
            ("661", "James (1996)", "Animation", "James (1996)")]
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
