"""Columns of raw files: types of Parquet, separators, headers and positions."""

from __future__ import annotations

from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from configs.errors import ConfigError, DataError
from configs.loader import validate
from pipeline.prepare.config import InteractionColumns, TableSource
from pipeline.prepare.sources import read_source
from tests.raw_files import CSV, EXPECTED, NAMES, RATED, ROWS, encode_all, read

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
            encode_all(raw)


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
