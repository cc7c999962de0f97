"""What stands in the cells of people's files: ids, times, numbers, texts, words for nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from configs.errors import DataError
from models.ragged import offsets_of
from pipeline.prepare.calendar_numbers import WIDTHS, calendar_micros, calendar_valid
from pipeline.prepare.config import (
    FilterConfig,
    GlobalTemporalSplit,
    InteractionColumns,
    PrepareConfig,
    SequencesSource,
    TableSource,
)
from pipeline.prepare.encoding import Encoded
from pipeline.prepare.entities import describe, item_text
from pipeline.prepare.ordering import Users, in_time
from pipeline.prepare.raw import FIELD
from pipeline.prepare.shaping import clean, text
from pipeline.prepare.sources import read_source
from pipeline.prepare.splits import split
from pipeline.store.columns import CATEGORY, ITEM_ID, TITLE
from tests.raw_files import encode_all, only_block

SECOND = 1_600_000_000
MICROS = 1_000_000


def csv_table(folder: Path, rows: list[str], header: str = "user_id,item_id,timestamp", **settings: Any) -> TableSource:
    path = folder / "events.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return TableSource(interactions=str(path), **settings)


def parquet_table(folder: Path, **columns: Any) -> TableSource:
    path = folder / "events.parquet"
    base: dict[str, Any] = {"user_id": ["a", "b"], "item_id": ["x", "y"], "timestamp": [SECOND, SECOND + 1]}
    pl.DataFrame(base | columns).write_parquet(path)
    return TableSource(interactions=str(path))


def encoded(source: TableSource | SequencesSource, bad_rows: Any = "error") -> Encoded:
    return encode_all(read_source(source), bad_rows)


def micros(source: TableSource) -> list[int]:
    found = only_block(encoded(source))
    assert found.times is not None
    return (found.times * (MICROS // {"s": 1, "ms": 1000, "us": MICROS, "ns": MICROS}[found.unit])).tolist()


def ids(source: TableSource) -> list[str]:
    found = encoded(source)
    return [found.item_ids[int(number)] for number in only_block(found).items]


# --- ids ---


@pytest.mark.parametrize(("written", "read"), [
    (["0.0", "12.0", "-3.0"], ["0", "12", "-3"]),
    (["12", "12.0", "3"], ["12", "12", "3"]),  # one column of whole numbers: one item
    (["12.0", "007"], ["12.0", "007"]),  # 007 is no number, so the column is text
    (["7", "007"], ["7", "007"]),
    (["1.0", "1.5"], ["1.0", "1.5"]),  # versions
    (["12.0", "B00X"], ["12.0", "B00X"]),
    (["9007199254740993", "9007199254740992"], ["9007199254740993", "9007199254740992"]),  # 2^53 + 1
    ([" i1", "i1 "], ["i1", "i1"]),
    (["1e5", "123"], ["1e5", "123"]),
    (["null", "N/A"], ["null", "N/A"]),
])
def test_ids_of_text_files(tmp_path: Path, written: list[str], read: list[str]) -> None:
    assert ids(csv_table(tmp_path, [f"u{n},{item},{SECOND + n}" for n, item in enumerate(written)])) == read


@pytest.mark.parametrize(("column", "read"), [
    (pl.Series([12.0, 3.0]), ["12", "3"]), (pl.Series([12.0, 1.5]), ["12", "1.5"]), (pl.Series([12, -3]), ["12", "-3"]),
    (pl.Series([2**63 - 1, 2**53 + 1]), ["9223372036854775807", "9007199254740993"]),
    (pl.Series([7.0, 8.0], dtype=pl.Float32), ["7", "8"]), (pl.Series(["12.0", "13.0"]), ["12", "13"]),
])
def test_ids_of_parquet_files(tmp_path: Path, column: pl.Series, read: list[str]) -> None:
    assert ids(parquet_table(tmp_path, item_id=column)) == read


@pytest.mark.parametrize("column", [pl.Series([2.0**53, 1.0]), pl.Series(["1e+16", "5.0"])])
def test_whole_numbers_that_came_through_floats_and_are_too_large_are_refused(tmp_path: Path,
                                                                              column: pl.Series) -> None:
    with pytest.raises(DataError, match=r"cannot tell whole numbers from 2\^53 on apart; save the ids as integers"):
        ids(parquet_table(tmp_path, item_id=column))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_a_number_that_is_none_is_a_missing_id(tmp_path: Path, bad: float | None) -> None:
    source = parquet_table(tmp_path, item_id=[1.0, bad])
    with pytest.raises(DataError, match="1 row with a missing item id: data row 2"):
        encoded(source)
    kept = encoded(source, "drop")
    assert len(only_block(kept)) == 1 and kept.dropped == {"no_item_id": 1} and kept.num_raw == 2


def test_a_word_for_a_missing_value_is_no_id_unless_the_setting_says_so(tmp_path: Path) -> None:
    rows = [f"None,x,{SECOND}", f"b,nan,{SECOND}", f"c,Nancy,{SECOND}"]
    found = encoded(csv_table(tmp_path, rows), "drop")
    assert found.dropped == {"no_user_id": 1, "no_item_id": 1}
    assert ids(csv_table(tmp_path, rows, missing_words=())) == ["x", "nan", "Nancy"]


def test_floats_in_one_file_and_integers_in_the_other_meet(tmp_path: Path) -> None:
    events = csv_table(tmp_path, [f"u,{n}.0,{SECOND + n}" for n in range(3)], items=str(tmp_path / "items.parquet"))
    pl.DataFrame({"item_id": [2, 0, 1], "title": ["two", "zero", "one"]}).write_parquet(tmp_path / "items.parquet")
    raw = read_source(events)
    described = item_text(pl.Series(["0", "1", "2"]), raw)
    assert described.table[TITLE].to_list() == ["zero", "one", "two"] and described.unknown == 0
    (tmp_path / "items.csv").write_text("item_id,title\n2.0,two\n0.0,zero\n,nobody\n")
    raw = read_source(events.model_copy(update={"items": str(tmp_path / "items.csv")}))
    assert describe(pl.Series(["0", "1", "2"]), raw.items, ITEM_ID, raw).table[TITLE].to_list() == ["zero", None, "two"]


def test_unknown_items_are_told_with_both_sides_and_refused_where_all_are(tmp_path: Path,
                                                                          capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\nzz,Other\n1,One\n1,Again\n")
    raw = read_source(csv_table(tmp_path, [f"u,1,{SECOND}"], items=str(tmp_path / "items.csv")))
    found = describe(pl.Series(["1", "2"]), raw.items, ITEM_ID, raw)
    assert (found.unknown, found.repeated, found.table[TITLE].to_list()) == (1, 1, ["One", None])
    told = capsys.readouterr().err
    assert "prepare: warning: 1 of the 2 items is not in the item table (such as '2'; the table has 3 rows, the " \
           "first of 'zz')" in told
    assert "1 further row of items that it had before (such as '1'); the first of each counts" in told
    describe(pl.Series(["1", *map(str, range(100, 110))]), raw.items, ITEM_ID, raw)
    assert "prepare: warning: 10 of the 11" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"2 of the 2 items are not in the item table \(such as '8'; .* describes none"):
        describe(pl.Series(["8", "9"]), raw.items, ITEM_ID, raw)


# --- times ---

@pytest.mark.parametrize(("written", "expected"), [
    ([f"{SECOND}.1", f"{SECOND}.25", str(SECOND)], [100_000, 250_000, 0]),
    ([f"{SECOND}.123456", f"{SECOND}.999999"], [123_456, 999_999]),
    ([f'"{SECOND},5"', str(SECOND)], [500_000, 0]),
    ([f"{SECOND}123.5", f"{SECOND}000"], [123_500, 0]),
    ([f"{SECOND}.0", f"{SECOND + 1}.0"], [0, MICROS]),
    (['"2020-09-13 12:26:40,500"', "2020-09-13T12:26:40"], [500_000, 0]),
    (["2020-09-13T12:26:40Z", "2020-09-13 14:26:40 +02:00", "2020-09-13T14:26:40+0200", "2020-09-13T12:26:40.5 UTC"],
     [0, 0, 0, 500_000]),
    (["2020-09-13T14:26:40+02", "2020/09/13 12:26:40", "20200913T122640Z"], [0, 0, 0]),
    (["2020-09-13T12:27", "2020-09-13T12:27+00:00"], [20 * MICROS, 20 * MICROS]),
    ([" 2020-09-13 12:26:40 ", "2020-09-13 12:26:40"], [0, 0]),
    (["2021-10-31T02:30:00+02:00", "2021-10-31T02:30:00+01:00"],  # one hour of the clock, twice
     [35_640_200 * MICROS, 35_643_800 * MICROS]),
    (["1.6e9", f"{SECOND}.5"], [0, 500_000]),
])
def test_times_keep_their_microseconds(tmp_path: Path, written: list[str], expected: list[int]) -> None:
    source = csv_table(tmp_path, [f"u,i{n},{time}" for n, time in enumerate(written)])
    assert [time - SECOND * MICROS for time in micros(source)] == expected


def test_fractions_order_and_split(tmp_path: Path) -> None:
    rows = [f"u{u},i{n},{SECOND + u}.{fraction}" for u in range(4) for n, fraction in enumerate((9, 1, 5, 3))]
    found = only_block(in_time(encoded(csv_table(tmp_path, rows)), seed=3))
    assert found.rows[:4].tolist() == [1, 3, 2, 0]
    assert found.seconds.tolist() == [SECOND + u for u in range(4) for _ in range(4)]  # type: ignore[union-attr]
    users = Users(offsets_of([4] * 4))
    parts = split(GlobalTemporalSplit(boundary=SECOND + 3.4, validation_users=0.3), users,
                  lambda question, *given: iter([question(found.times, *given)]), 0, MICROS)
    assert parts.boundary == SECOND + 3.4
    assert np.flatnonzero(parts.parts == 2).tolist() == [14, 15]
    quantile = split(GlobalTemporalSplit(quantile=0.9, validation_users=0.3), users,
                     lambda question, *given: iter([question(found.times, *given)]), 0, MICROS)
    assert quantile.boundary == SECOND + 3.5  # the 15th of 16


@pytest.mark.parametrize(("numbers", "moments"), [
    (["20240128", "20240229"], ["2024-01-28", "2024-02-29"]),
    (["20240128123000", "19991231235959"], ["2024-01-28T12:30:00", "1999-12-31T23:59:59"]),
    (["202401281230", "202401290000"], ["2024-01-28T12:30", "2024-01-29T00:00"]),
])
def test_dates_as_one_number_are_read_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], numbers: list[str],
                                               moments: list[str]) -> None:
    expected = [int(np.datetime64(moment, "us").astype(int)) for moment in moments]
    assert micros(csv_table(tmp_path, [f"u,i{n},{time}" for n, time in enumerate(numbers)])) == expected
    assert f"times such as {numbers[0]} are read as dates YYYYMMDD" in capsys.readouterr().err
    assert micros(parquet_table(tmp_path, timestamp=list(map(int, numbers[:2])))) == expected


def test_dates_beside_other_numbers_ask_for_the_unit(tmp_path: Path) -> None:
    rows = [f"u,i{n},{time}" for n, time in enumerate(["20240128", "20240129", "20240231"])]
    with pytest.raises(DataError, match=r"2 times look like YYYYMMDD \(such as 20240128\), 1 do not \(20240231 in data "
                                        r"row 3\); say what they are with prepare.source.timestamp_unit=date"):
        encoded(csv_table(tmp_path, rows))
    found = encoded(csv_table(tmp_path, rows, timestamp_unit="date"), "drop")
    assert found.dropped == {"no_time": 1}
    assert only_block(encoded(csv_table(tmp_path, rows, timestamp_unit="s"))).unit == "s"
    numbers = parquet_table(tmp_path, timestamp=[20240128, 5]).model_copy(update={"timestamp_unit": "date"})
    assert encoded(numbers, "drop").dropped == {"no_time": 1}


@pytest.mark.parametrize("width", WIDTHS)
def test_calendar_numbers_against_the_calendar(width: int) -> None:
    days = np.arange("1900-01-01", "2101-01-01", 13, dtype="datetime64[D]")
    numbers = np.array([int(str(day).replace("-", "")) for day in days]) * 10 ** (width - 8)
    assert calendar_valid(numbers, width).all()
    assert (calendar_micros(numbers, width) == days.astype("datetime64[us]").astype(np.int64)).all()
    wrong = np.array([20230229, 20241301, 20240100, 20240132, 18991231, 21010101, 0, -20240101]) * 10 ** (width - 8)
    assert not calendar_valid(wrong, width).any()


@pytest.mark.parametrize("first", ["unknown", "", "13.09.2020"])
def test_only_bad_times_are_counted_wherever_they_stand(tmp_path: Path, first: str) -> None:
    numbers = csv_table(tmp_path, [f"u,i,{first}", f"u,i,{SECOND}", f"u,j,{SECOND + 1}"])
    with pytest.raises(DataError, match="1 row with a missing or unreadable time: data row 1 "):
        encoded(numbers)
    days = csv_table(tmp_path, [f"u,i,{first}"] * 1001 + ["u,i,2020-09-13"])
    assert encoded(days, "drop").dropped == {"no_time": 1001}


@pytest.mark.parametrize(("times", "shown"), [
    (["2020-01-01", "2020-01-02", str(SECOND)], "data row 3 ('1600000000'); legal: in all rows of one form"),
    (['"1,600,000,000"'], "data row 1 ('1,600,000,000')"), (["9/13/2020"], "data row 1 ('9/13/2020')"),
    (["-5.5"], "1 row with a negative time: data row 1 ('-5.5')"), (["3000-01-01"], "a time after the year 2100"),
])
def test_what_is_no_time_is_shown(tmp_path: Path, times: list[str], shown: str) -> None:
    with pytest.raises(DataError) as caught:
        encoded(csv_table(tmp_path, [f"u,i{n},{time}" for n, time in enumerate(times)]))
    assert shown in str(caught.value)


def test_nanoseconds_stay_whole(tmp_path: Path) -> None:
    found = in_time(encoded(csv_table(tmp_path, [f"u,i0,{SECOND}000000002", f"u,i1,{SECOND}000000001"])), 0)
    assert only_block(found).unit == "ns" and only_block(found).rows.tolist() == [1, 0]


def part(times: list[Any], dtype: Any = None) -> Callable[[Path], None]:
    """Writes a Parquet file of rows of ``c`` with these times."""
    rows = pl.DataFrame({"user_id": ["c"] * len(times), "item_id": ["z"] * len(times)}, schema=dict.fromkeys(
        ("user_id", "item_id"), pl.String)).with_columns(pl.Series("timestamp", times, dtype))
    return lambda path: rows.write_parquet(path)


def lines(*rows: str) -> Callable[[Path], object]:
    return lambda path: path.write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")


@pytest.mark.parametrize("name", ["0", "9"])
@pytest.mark.parametrize(("write", "bad"), [
    (lines(), 0), (lines("c,z,", "c,z, "), 2), (lines("c,z,soon"), 1), (part([None], pl.Null), 1),
    (part([], pl.String), 0), (part([], pl.Int64), 0), (part([float("nan"), None], pl.Float64), 2),
], ids=["no rows", "missing", "unreadable", "null column", "no strings", "no numbers", "NaN"])
def test_a_file_that_has_no_time_takes_the_form_of_the_others(tmp_path: Path, write: Callable[[Path], object],
                                                              bad: int, name: str) -> None:
    lines("a,x,2020-09-13T12:26:40", "b,y,2020-09-13")(tmp_path / "5.csv")
    write(tmp_path / name)
    found = encoded(TableSource(interactions=str(tmp_path)), "drop")
    assert found.dropped == ({"no_time": bad} if bad else {}) and only_block(found).unit == "us"
    assert only_block(found).seconds.tolist() == [SECOND, 1_599_955_200]  # type: ignore[union-attr]


def test_numbers_beside_dates_are_refused_whatever_stands_before(tmp_path: Path) -> None:
    lines()(tmp_path / "0.csv")
    lines("a,x,2020-09-13")(tmp_path / "1.csv")
    lines(*["b,y,"] * 1001, f"b,y,{SECOND}")(tmp_path / "2.csv")
    with pytest.raises(DataError, match=r"2\.csv: its times are not in the form of \S+/1\.csv \(ISO dates in one"):
        encoded(TableSource(interactions=str(tmp_path)))


def test_times_of_32_bit_floats_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoded(parquet_table(tmp_path, timestamp=pl.Series([SECOND, SECOND], dtype=pl.Float32)))
    assert "cannot tell Unix seconds less than 64 s apart" in capsys.readouterr().err


# --- numbers ---


@pytest.mark.parametrize(("written", "read"), [
    (["4", "4.5", " 3 "], [4, 4.5, 3]), (['"4,5"', '"0,125"'], [4.5, 0.125]), (["nan", "None", "", "3"],
                                                                              [None, None, None, 3]),
])
def test_signals(tmp_path: Path, written: list[str], read: list[float | None]) -> None:
    rows = [f"u,i{n},{SECOND + n},{signal}" for n, signal in enumerate(written)]
    source = csv_table(tmp_path, rows, "user_id,item_id,timestamp,rating", columns=InteractionColumns(signal="rating"))
    found = only_block(encoded(source)).signals
    assert found is not None
    assert [None if np.isnan(value) else float(value) for value in found] == read


# --- texts ---


@pytest.mark.parametrize(("cell", "told"), [
    ("[REC] 2", "[REC] 2"), ("[3 Pack] Men's Socks & Women's", "[3 Pack] Men's Socks & Women's"),
    ("['Blue', 'Red'] Shirt", "['Blue', 'Red'] Shirt"), ('[2010] "Blue" Album', '[2010] "Blue" Album'),
    ('["A", "B"]', "A, B"), (r"['it\'s', 'b']", "it's, b"), ('[["Beauty", "Skin"]]', "Beauty, Skin"), ("[]", None),
    ("[1, 2]", "[1, 2]"), ('["A", null]', "A"), ("[[VIDEOID:abc]] Great", "[[VIDEOID:abc]] Great"),
    ("L&#8217;Or&eacute;al", "L’Oréal"), ("Rock &#x26; Roll", "Rock & Roll"),
    ("Caf&eacute; &mdash; noir", "Café — noir"),
    ("AT&T &notit; R&D; ?a=1&copy=2", "AT&T &notit; R&D; ?a=1&copy=2"), ("5&cent; &amp;amp; up", "5¢ &amp; up"),
    ("A &lt;b&gt;bold&lt;/b&gt; one", "A bold one"), ("I <3 NY, x < y and y > z", "I <3 NY, x < y and y > z"),
])
def test_titles(cell: str, told: str | None) -> None:
    frame = pl.DataFrame({"x": [cell]})
    assert frame.select(clean(text("x", pl.String())))["x"].to_list() == [told]


def test_words_for_a_missing_value_are_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    titles = ["nan", "NaN", "None", "NULL", "N/A", "-", " ", "None of the above", "Nan's Bread"]
    (tmp_path / "items.csv").write_text("item_id,title,kind,about\n" + "".join(
        f'i{n},"{title}",{"None" if n else "Toys&amp;Games|x"},words\n' for n, title in enumerate(titles)))
    source = csv_table(tmp_path, [f"u,i0,{SECOND}"], items=str(tmp_path / "items.csv"), category="kind",
                       text_fields=("about",))
    names = pl.Series([f"i{n}" for n in range(len(titles))])
    found = item_text(names, read_source(source))
    assert found.missing_words == {"title": 3, "category": 8}
    assert found.table[FIELD + "title"].to_list() == [None, None, None, *titles[3:6], None, *titles[7:]]
    assert found.table[CATEGORY].to_list() == ["Toys&Games", *[None] * 8]
    assert "3 in title, 8 in category; prepare.source.missing_words" in capsys.readouterr().err
    kept = item_text(names, read_source(source.model_copy(update={"missing_words": ("N/A",)})))
    assert kept.missing_words == {"title": 1} and kept.table[CATEGORY].to_list()[1:] == ["None"] * 8


def test_spaces_after_every_separator(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text('user_id, item_id, timestamp\nu, "a ""b"", c", 1600000000\n')
    with pytest.raises(DataError, match="quote fields that hold the separator"):
        encoded(TableSource(interactions=str(path)))
    path.write_text('user_id, item_id , timestamp\nu, "a ""b""", 1600000000\nv,c , 1600000001\n')
    assert ids(TableSource(interactions=str(path))) == ['a "b"', "c"]


# --- sequences ---


def test_users_without_items_are_counted_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "u.txt"
    path.write_text("u1 a b\n99\n\n100 \nu2 c\n")
    found = encoded(SequencesSource(interactions=str(path), items=None))
    assert found.dropped == {"user_without_items": 2} and (found.num_raw, len(only_block(found))) == (5, 3)


@pytest.mark.parametrize("lines", ["\n0,0,1,2\n1,2,3\n", "\nu1 0,1,2\nu2 3,4\n", "\n0;1;2\n"])
def test_lists_with_other_separators_are_named_with_their_line(tmp_path: Path, lines: str) -> None:
    path = tmp_path / "u.txt"
    path.write_text(lines)
    with pytest.raises(DataError, match=r"line 2 \('.*'\) holds no list of items.*with spaces or tabs between"):
        read_source(SequencesSource(interactions=str(path), items=None))


def test_a_missing_item_in_a_sequence_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "u.txt"
    path.write_text("u1 a b\n\nu2 c nan\n")
    with pytest.raises(DataError, match=r"1 row with a missing item id: line 3 \('nan'\)"):
        encoded(SequencesSource(interactions=str(path), items=None))


def test_settings_take_them() -> None:
    config = PrepareConfig(split=GlobalTemporalSplit(boundary=1.5), filter=FilterConfig(bad_rows="drop"))
    assert config.split.boundary == 1.5  # type: ignore[union-attr]
    assert GlobalTemporalSplit(boundary=1).model_dump()["boundary"] == 1
