"""Every source's raw layout, from small files to our columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from configs.errors import DataError
from pipeline.prepare.config import (
    AmazonM2Source,
    AmazonReviewsSource,
    InteractionColumns,
    KionSource,
    MovieLensSource,
    SequencesSource,
    SourceConfig,
    TableSource,
)
from pipeline.prepare.entities import item_text
from pipeline.prepare.files import source_files
from pipeline.prepare.raw import ATTRIBUTE, FIELD, RAW_ROW, TAG, RawTables
from pipeline.prepare.shaping import clean, printed_list
from pipeline.prepare.sources import read_source
from pipeline.store.columns import CATEGORY, ITEM_ID, REVIEW, SIGNAL, TIMESTAMP, TITLE, USER_ID
from tests.raw_files import encode_all, only_block


def rows(frame: pl.LazyFrame | None, *columns: str) -> list[tuple[Any, ...]]:
    assert frame is not None
    return frame.select(columns).collect(engine="streaming").rows()


def read(source: SourceConfig) -> RawTables:
    raw = read_source(source)
    numbers = [n for n, in rows(raw.interactions, RAW_ROW)]
    assert numbers == list(range(len(numbers)))
    return raw


def write(path: Path, text: str, encoding: str = "utf-8") -> str:
    path.write_bytes(text.encode(encoding))
    return str(path)


# --- sequences ---


def test_sequences_keep_the_order_of_the_line(tmp_path: Path) -> None:
    lines = write(tmp_path / "u.txt", "u1 c a  b\n\nu2\ta\r\n")
    items = write(tmp_path / "i.txt", "a first   item\nb second\nc\n")
    raw = read(SequencesSource(interactions=lines, items=items))
    assert raw.timeless
    assert rows(raw.interactions, USER_ID, ITEM_ID, TIMESTAMP, SIGNAL) == [
        ("u1", "c", None, None), ("u1", "a", None, None), ("u1", "b", None, None), ("u2", "a", None, None)]
    assert rows(raw.items, ITEM_ID, TITLE, FIELD + "text") == [
        ("a", "first item", "first item"), ("b", "second", "second"), ("c", None, None)]


def test_sequences_text_may_hold_quotes_and_commas(tmp_path: Path) -> None:
    lines = write(tmp_path / "u.txt", 'u1 "a b\n')
    items = write(tmp_path / "i.txt", 'b 5" pipe, "new\n')
    raw = read(SequencesSource(interactions=lines, items=items))
    assert rows(raw.interactions, ITEM_ID) == [('"a',), ("b",)]
    assert rows(raw.items, TITLE) == [('5" pipe, "new',)]


def test_a_user_on_two_lines_is_refused(tmp_path: Path) -> None:
    lines = write(tmp_path / "u.txt", "u1 a\nu2 b\nu1 c\n")
    with pytest.raises(DataError, match=r"user 'u1' stands on lines 1, 3"):
        read_source(SequencesSource(interactions=lines, items=None))


def test_byte_order_mark_is_no_part_of_the_first_id(tmp_path: Path) -> None:
    lines = write(tmp_path / "u.txt", "u1 a b\n", "utf-8-sig")
    assert rows(read(SequencesSource(interactions=lines, items=None)).interactions, USER_ID) == [("u1",), ("u1",)]


# --- MovieLens ---


def movielens(folder: Path) -> Path:
    write(folder / "ratings.csv", "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n2,7,5,1260759145\n")
    write(folder / "movies.csv", 'movieId,title,genres\n31,"Fly, The (1986)",Drama|Sci-Fi\n'
                                 "7,11'09\"01 - September 11 (2002),(no genres listed)\n8,Untitled,Drama\n")
    write(folder / "tags.csv", "userId,movieId,tag,timestamp\n1,31,Gross  film,1260759150\n")
    return folder


def test_movielens(tmp_path: Path) -> None:
    raw = read(MovieLensSource(folder=str(movielens(tmp_path)), tags=True))
    assert rows(raw.interactions, USER_ID, ITEM_ID, TIMESTAMP, SIGNAL) == [
        ("1", "31", 1260759144, 2.5), ("2", "7", 1260759145, 5.0)]
    assert rows(raw.items, ITEM_ID, TITLE, CATEGORY, FIELD + "year", FIELD + "genres") == [
        ("31", "Fly, The (1986)", "Drama", "1986", "Drama, Sci-Fi"),
        ("7", "11'09\"01 - September 11 (2002)", None, "2002", None),
        ("8", "Untitled", "Drama", None, "Drama")]
    assert rows(raw.tags, USER_ID, ITEM_ID, TAG, TIMESTAMP) == [("1", "31", "Gross film", 1260759150)]
    assert only_block(encode_all(raw)).unit == "s"


def test_tags_are_read_only_on_request(tmp_path: Path) -> None:
    assert read(MovieLensSource(folder=str(movielens(tmp_path)))).tags is None


# --- Amazon reviews ---

REVIEWS = ("UserId,ProductId,Rating,Timestamp,Review\n"
           "U1,P1,5,1400000000,\"Good,\nvery <b>good</b>\"\nU2,P2,1.0,1400000001,\n")


def test_amazon_reviews_with_csv_metadata(tmp_path: Path) -> None:
    meta = ("ProductId,title,description,categories,brand,price\n"
            "P1,Cream &amp; oil,<p>Soft</p>,\"['Beauty', 'Hair']\",ACME,9.99\nP2,,,,,\n")
    raw = read(AmazonReviewsSource(interactions=write(tmp_path / "r.csv", REVIEWS), review_text=True,
                                   items=write(tmp_path / "m.csv", meta)))
    assert rows(raw.interactions, USER_ID, ITEM_ID, TIMESTAMP, SIGNAL, REVIEW) == [
        ("U1", "P1", 1400000000, 5.0, "Good, very good"), ("U2", "P2", 1400000001, 1.0, None)]
    items = raw.items
    assert items is not None
    assert items.collect_schema().names()[3:] == [
        FIELD + n for n in ("title", "description", "categories", "brand", "price")]
    assert items.collect().rows()[0] == (
        "P1", "Cream & oil", ["Beauty", "Hair"], "Cream & oil", "Soft", "Beauty, Hair", "ACME", "9.99")


def test_amazon_reviews_with_jsonl_metadata_and_original_names(tmp_path: Path) -> None:
    reviews = [{"reviewerID": "U1", "asin": "P1", "overall": 4, "unixReviewTime": 1400000000, "reviewText": "ok"}]
    meta = [{"asin": "P1", "title": "Oil", "description": ["One.", "Two."], "categories": [["Beauty", "Skin \"A\""]],
             "price": 3.5},
            {"asin": "P2", "title": None, "description": "plain"}]
    raw = read(AmazonReviewsSource(
        interactions=write(tmp_path / "r.jsonl", "".join(json.dumps(r) + "\n" for r in reviews)),
        items=write(tmp_path / "m.jsonl", "".join(json.dumps(r) + "\n" for r in meta))))
    assert rows(raw.interactions, USER_ID, ITEM_ID, TIMESTAMP, SIGNAL) == [("U1", "P1", 1400000000, 4.0)]
    assert rows(raw.items, ITEM_ID, TITLE, CATEGORY, FIELD + "description", FIELD + "categories", FIELD + "price") == [
        ("P1", "Oil", ["Beauty", 'Skin "A"'], "One., Two.", 'Beauty, Skin "A"', "3.5"),
        ("P2", None, None, "plain", None, None)]


def test_reviews_are_read_only_on_request(tmp_path: Path) -> None:
    raw = read(AmazonReviewsSource(interactions=write(tmp_path / "r.csv", REVIEWS)))
    assert REVIEW not in raw.interactions.collect_schema().names()


# --- Kion ---


def test_kion(tmp_path: Path) -> None:
    write(tmp_path / "interactions.csv", "user_id,item_id,last_watch_dt,total_dur,watched_pct\n"
                                         "176549,9506,2021-05-11,4250,72.0\n699317,1659,1970-01-02,8317,\n")
    write(tmp_path / "items.csv", "item_id,content_type,title,title_orig,release_year,genres,countries,keywords\n"
                                  '9506,film,Поговори,Hable,2002.0,"драмы, комедии",Испания,"ключ, слово"\n')
    write(tmp_path / "users.csv", "user_id,age,income,sex,kids_flg\n176549,age_25_34,income_60_90,М,1\n")
    raw = read(KionSource(folder=str(tmp_path), user_attributes=True))
    assert only_block(encode_all(raw)).seconds.tolist() == [1620691200, 86400]  # type: ignore[union-attr]
    assert rows(raw.interactions, SIGNAL) == [(72.0,), (None,)]
    assert rows(raw.items, TITLE, CATEGORY, FIELD + "release_year", FIELD + "genres", FIELD + "actors") == [
        ("Поговори", ["драмы", " комедии"], "2002", "драмы, комедии", None)]
    assert rows(raw.users, USER_ID, ATTRIBUTE + "age", ATTRIBUTE + "kids_flg") == [("176549", "age_25_34", "1")]


# --- Amazon-M2 ---

SESSIONS = ("prev_items,next_item,locale\n"
            "\"['B09W9FND7K' 'B09JSPLN1M']\",B09M7GY217,DE\n"
            "\"['B076THCGSG' 'B007MO8IME'\n 'B08MF65MLV']\",B001B4TKA0,UK\n"
            "\"['B09W9FND7K']\",B09W9FND7K,DE\n")
PRODUCTS = ("id,locale,title,price,brand,color,size,model,material,author,desc\n"
            "B09W9FND7K,DE,Titel,9.99,Marke,rot,,,,,Text\nB09W9FND7K,UK,Title,7.99,Brand,red,,,,,\n")


def m2(folder: Path, sessions: str = SESSIONS) -> str:
    write(folder / "sessions_train.csv", sessions)
    write(folder / "products_train.csv", PRODUCTS)
    return str(folder)


def test_amazon_m2_sessions_span_lines_and_end_with_the_next_item(tmp_path: Path) -> None:
    raw = read(AmazonM2Source(folder=m2(tmp_path)))
    assert raw.timeless
    sessions = raw.interactions.collect().group_by(USER_ID, maintain_order=True).agg(ITEM_ID)[ITEM_ID].to_list()
    assert sessions == [["DE:B09W9FND7K", "DE:B09JSPLN1M", "DE:B09M7GY217"],
                        ["UK:B076THCGSG", "UK:B007MO8IME", "UK:B08MF65MLV", "UK:B001B4TKA0"],
                        ["DE:B09W9FND7K", "DE:B09W9FND7K"]]
    assert rows(raw.items, ITEM_ID, TITLE, CATEGORY, FIELD + "brand", FIELD + "size") == [
        ("DE:B09W9FND7K", "Titel", "DE", "Marke", None), ("UK:B09W9FND7K", "Title", "UK", "Brand", None)]


def test_amazon_m2_locales(tmp_path: Path) -> None:
    raw = read(AmazonM2Source(folder=m2(tmp_path), locales=("UK",)))
    assert {item.split(":")[0] for item, in rows(raw.interactions, ITEM_ID)} == {"UK"}
    assert rows(raw.items, ITEM_ID) == [("UK:B09W9FND7K",)]


def test_amazon_m2_array_that_was_printed_short_is_a_bad_row(tmp_path: Path) -> None:
    raw = read(AmazonM2Source(folder=m2(tmp_path, SESSIONS + "\"['A' 'B' ... 'Z']\",Y,DE\n")))
    with pytest.raises(DataError, match=r"1 row with a missing item id: interaction 10"):
        encode_all(raw)


def test_printed_lists_of_both_kinds() -> None:
    frame = pl.DataFrame({"x": ["['A' 'B'\n 'C']", '["a", "b \\"c\\""]', "[]", None, "['it is', \"it's\"]"]})
    assert frame.select(printed_list(pl.col("x")))["x"].to_list() == [
        ["A", "B", "C"], ["a", 'b "c"'], [], None, ["it is", "it's"]]


# --- any table ---

COLUMNS = InteractionColumns(user="who", item="what", timestamp="when", signal="score")
TABLE = pl.DataFrame({"who": ["a", "b"], "what": ["007", "7"], "when": [1500000000, 1500000001], "score": [1.0, None]})


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_table_in_three_forms(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"t.{form}"
    {"csv": TABLE.write_csv, "parquet": TABLE.write_parquet, "jsonl": TABLE.write_ndjson}[form](path)  # type: ignore[operator]
    raw = read(TableSource(interactions=str(path), columns=COLUMNS))
    assert rows(raw.interactions, USER_ID, ITEM_ID, TIMESTAMP, SIGNAL) == [
        ("a", "007", 1500000000, 1.0), ("b", "7", 1500000001, None)]


def test_table_glob_reads_files_in_name_order_and_locates_rows(tmp_path: Path) -> None:
    for name, item in (("2", "y"), ("1", "x"), ("3", "z")):
        pl.DataFrame({"who": ["a", "b"], "what": [item, item], "when": [1, 2], "score": [1, 1]}).write_csv(
            tmp_path / f"part-{name}.csv")
    raw = read(TableSource(interactions=str(tmp_path / "part-*.csv"), columns=COLUMNS))
    assert [i for i, in rows(raw.interactions, ITEM_ID)] == ["x", "x", "y", "y", "z", "z"]
    assert raw.place(3) == f"{tmp_path / 'part-2.csv'}, data row 2"


@pytest.mark.parametrize(("times", "unit", "seconds"), [
    (["1500000000", "1500000001.0"], "auto", [1500000000, 1500000001]),
    (["1500000000123", "1500000001999"], "auto", [1500000000, 1500000001]),
    (["2017-07-14", "2017-07-14T02:40:01Z"], "auto", [1499990400, 1500000001]),
    (["2017-07-14 02:40:00.5", "2017-07-14T04:40:01+02:00"], "date", [1500000000, 1500000001]),
    (["5000", "7999"], "ms", [5, 7]),
])
def test_times_of_any_form(tmp_path: Path, times: list[str], unit: Any, seconds: list[int]) -> None:
    path = tmp_path / "t.csv"
    TABLE.with_columns(pl.Series("when", times)).write_csv(path)
    raw = read(TableSource(interactions=str(path), columns=COLUMNS, timestamp_unit=unit))
    assert only_block(encode_all(raw)).seconds.tolist() == seconds  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [pl.Datetime("ms"), pl.Datetime("us", "Europe/Berlin"), pl.Int32, pl.Float64])
def test_parquet_times_of_any_type(tmp_path: Path, dtype: Any) -> None:
    moments = pl.Series("when", [1500000000, 1500000001])
    if isinstance(dtype, pl.Datetime):
        moments = pl.from_epoch(moments, time_unit="s").dt.replace_time_zone("UTC").dt.convert_time_zone(
            dtype.time_zone or "UTC").dt.cast_time_unit(dtype.time_unit or "us")
        moments = moments if dtype.time_zone else moments.dt.replace_time_zone(None)
    else:
        moments = moments.cast(dtype)
    TABLE.with_columns(moments).write_parquet(tmp_path / "t.parquet")
    raw = read(TableSource(interactions=str(tmp_path / "t.parquet"), columns=COLUMNS))
    assert only_block(encode_all(raw)).seconds.tolist() == [1500000000, 1500000001]  # type: ignore[union-attr]


def test_table_items_and_users(tmp_path: Path) -> None:
    TABLE.write_csv(tmp_path / "t.csv")
    pl.DataFrame({"item_id": ["7"], "name": ["Seven"], "kind": ["x|y"], "about": [["a", "b"]]}).write_parquet(
        tmp_path / "i.parquet")
    write(tmp_path / "u.csv", "user_id;age\nb;30.0\n".replace(";", ","))
    raw = read(TableSource(interactions=str(tmp_path / "t.csv"), columns=COLUMNS, items=str(tmp_path / "i.parquet"),
                           title="name", category="kind", text_fields=("about",), users=str(tmp_path / "u.csv"),
                           attributes=("age",)))
    assert rows(raw.items, ITEM_ID, TITLE, CATEGORY, FIELD + "name", FIELD + "about") == [
        ("7", "Seven", ["x", "y"], "Seven", "a, b")]
    assert rows(raw.users, USER_ID, ATTRIBUTE + "age") == [("b", "30")]


@pytest.mark.parametrize(("given", "expected"), [
    (["A > Skin", "A > Hair", "A", None], ["Skin", "Hair", "A", None]),  # paths share their root
    (["A > B > Skin", "A > B > Hair", "A > B", ""], ["Skin", "Hair", "B", None]),
    (["Drama > War", "War", "Comedy > Drama", "nan"], ["Drama", "War", "Comedy", None]),  # the first tells enough
    (["A > Skin"] * 4, ["A"] * 4),  # no place does: the first
    ([None, "nan", "", " "], [None] * 4),
    (["<b>A</b> > x", "A &gt; > y"] * 2, ["A", "A >"] * 2),
    (["A > x", "A > y", "A > ", "A > nan > nan"], ["x", "y", "A", "A"])])  # what is none of them does not count
def test_of_several_categories_the_first_place_that_tells_items_apart_counts(
        given: list[str | None], expected: list[str | None]) -> None:
    table = pl.LazyFrame({ITEM_ID: list("abcd"), TITLE: ["t"] * 4, CATEGORY: [
        None if each is None else each.split(" > ") for each in given]},
        schema_overrides={CATEGORY: pl.List(pl.String)})
    raw = RawTables(pl.LazyFrame(), items=table, missing_words=("nan",))
    assert item_text(pl.Series(list("abcd")), raw).table[CATEGORY].to_list() == expected


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp1252"])
def test_other_encodings_by_the_config_key(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "t.csv", "who;what;when;score\nJosé;café;1;2\n", encoding)
    raw = read(TableSource(interactions=path, columns=COLUMNS, encoding=encoding, separator=";"))
    assert rows(raw.interactions, USER_ID, ITEM_ID) == [("José", "café")]


def test_timeless_table_keeps_file_order(tmp_path: Path) -> None:
    TABLE.write_csv(tmp_path / "t.csv")
    columns = InteractionColumns(user="who", item="what", timestamp=None)
    assert read(TableSource(interactions=str(tmp_path / "t.csv"), columns=columns)).timeless


# --- text and paths ---


@pytest.mark.parametrize(("dirty", "expected"), [
    ("a\x00b\x1f c\r\n\td", "a b c d"), ("<p>Soft <br/>&amp; warm</p>", "Soft & warm"), ("3 < 5 > 2", "3 < 5 > 2"),
    ("\u202eevil\u200b \ufeffname", "evil name"), ("  ", None), ("", None), (None, None), ("&lt;b&gt;x&lt;/b&gt;", "x"),
])
def test_clean_text(dirty: str | None, expected: str | None) -> None:
    frame = pl.DataFrame({"x": [dirty]}, schema={"x": pl.String})
    assert frame.select(clean(pl.col("x")))["x"].to_list() == [expected]


def test_environment_is_expanded_when_files_are_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MENTOREC_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "u.txt", "u a\n")
    for path in ("$MENTOREC_DATA/u.txt", "${MENTOREC_DATA}/u.txt", "~/u.txt"):
        assert source_files(SequencesSource(interactions=path, items=None))["interactions"] == (tmp_path / "u.txt",)
