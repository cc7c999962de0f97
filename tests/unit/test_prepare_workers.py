"""`prepare` shared out over workers against one process: the same artifact, byte for byte, and the same errors.

The workers are of this process here, and each call is made twice, as where a worker dies with what it has done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import polars as pl
import pytest

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import DataError
from pipeline.prepare import keys, parquet_batches, stage
from pipeline.prepare.config import PrepareConfig
from pipeline.prepare.numbering import Numbering, Seen
from pipeline.prepare.parts import grouped
from pipeline.prepare.raw import RawPart
from pipeline.prepare.scratch import Scratch, shared_scratch
from pipeline.prepare.stage import prepare
from pipeline.store import artifacts
from tests.raw_files import ODD_COLUMNS, odd_files, odd_rows, prepared_files
from tests.s3_server import BUCKET, CREDENTIALS, refusing_server

WORKERS = 3


class Careless:
    """What they are given and give back travels as bytes, and all is done twice."""

    number = WORKERS
    made: list[str] = []

    def __init__(self, *_: Any) -> None:
        pass

    def require_nodes(self) -> None:
        pass

    def share(self, value: Any) -> Any:
        return value

    def run(self, work: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        for call in calls:
            sent = cloudpickle.dumps(call)
            for _ in range(2):
                done = cloudpickle.dumps(work(*cloudpickle.loads(sent)))
            self.made.append(work.__name__)
            yield cloudpickle.loads(done)


@pytest.fixture(autouse=True)
def workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "RayTasks", Careless)
    monkeypatch.setattr(Careless, "made", [])
    monkeypatch.setattr(parquet_batches, "PART_BYTES", 2000)


def both(values: dict[str, Any], root: Path, **execution: Any) -> list[dict[str, bytes]]:
    return [prepared_files(values, root / f"{workers}", workers=workers, **execution) for workers in (0, WORKERS)]


@pytest.mark.parametrize("rows_at_once", [90, 10**6])
@pytest.mark.parametrize("values", [
    {"filter": {"bad_rows": "drop", "min_signal": 2.0, "duplicates": "last", "k_core": 4}},
    {"filter": {"bad_rows": "drop", "k_core": 20, "mode": "once"},
     "cold_start": {"share": 0.9, "least": 1, "most": 2}},
    {"filter": {"bad_rows": "drop"}, "split": {"kind": "global_temporal", "quantile": 0.7}},
    {"source": {"file_order": True}, "filter": {"bad_rows": "drop"}},
    {"source": {"columns": ODD_COLUMNS | {"timestamp": None}}, "filter": {"bad_rows": "drop"}},
    {"source": {"columns": {"user": "number", "item": "i", "timestamp": "day"}}, "filter": {"bad_rows": "drop"}},
], ids=["odd", "cold", "temporal", "file order", "timeless", "whole ids and days"])
def test_workers_change_no_byte(tmp_path: Path, values: dict[str, Any], rows_at_once: int) -> None:
    source = odd_files(tmp_path / "raw", 900)
    here, shared = both(values | {"source": source | values.get("source", {})}, tmp_path, rows_at_once=rows_at_once)
    assert shared.keys() == here.keys() and not [name for name in shared if "scratch" in name]
    assert [name for name in here if shared[name] != here[name]] == []
    assert Careless.made.count("read_part") > 5 and Careless.made.count("change_block") > 5


@pytest.mark.parametrize("file_order", [False, True])
def test_files_without_a_time_are_read_alike(tmp_path: Path, file_order: bool) -> None:
    raw = tmp_path / "raw"
    source = odd_files(raw, 900)
    for path in [raw / "0.csv", *raw.glob("[45678]*")]:
        path.unlink()
    dates = pl.read_parquet(raw / "2.parquet").with_columns(
        t=pl.col("day").str.replace("(....)(..)", "${1}-${2}-"))
    dates.write_parquet(raw / "2.parquet", row_group_size=18)
    dates.with_columns(t=pl.lit(None)).write_parquet(raw / "4-null.parquet")
    dates.with_columns(t=pl.lit(float("nan"))).head(20).write_parquet(raw / "0-no-numbers.parquet")
    dates.with_columns(t=pl.lit("soon")).head(5).write_csv(raw / "3-other-order.csv")
    values = {"source": source | {"file_order": file_order}, "filter": {"bad_rows": "drop"}}
    here, shared = both(values, tmp_path)
    assert here == shared and "read_part" in Careless.made


@pytest.mark.parametrize("source", [{"kind": "synthetic", "users": 60, "items": 30}, {"kind": "sequences"}, {}])
def test_what_has_no_parts_is_read_here(tmp_path: Path, source: dict[str, Any]) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"u{user} i{user % 4} i{user % 5} i{user % 3} i{user % 7}\n" for user in range(9)))
    whole = odd_rows(tmp_path / "odd.csv", 300)
    source = source | {"interactions": str(lines), "items": None} if source.get("kind") == "sequences" else source
    here, shared = both({"source": source or whole, "filter": {"bad_rows": "drop"}}, tmp_path)
    assert here == shared
    assert Careless.made.count("read_part") == 0 < Careless.made.count("change_block")


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda raw: (raw / name).write_text(text)


@pytest.mark.parametrize(("change", "settings", "message"), [
    (None, {}, r"rows with a missing user id: .*0.csv, data row \d+ \(empty\), .*; further: \d+ with a missing item"),
    (None, {"bad_rows": "drop", "duplicates": "error"}, r"rows repeat an item that .*, such as .*, data row \d+; set"),
    (None, {"bad_rows": "drop", "k_core": 999}, r"k_core=999 \(iterated\) leaves none of the "),
    (write("3-other-order.csv", "u,i\na,b\n"), {}, "3-other-order.csv: no column 't'"),
    (write("1-no-rows.csv", ""), {}, "1-no-rows.csv: the file has zero bytes"),
    (lambda raw: (raw / "4.csv.gz").write_bytes((raw / "4.csv.gz").read_bytes()[:-300]), {}, "4.csv.gz: damaged"),
    (write("8.csv", "u,i,t,s,r\na,b,7,1\n"), {}, "8.csv: cannot be read: data row 1 has 4"),
    (write("8.csv", "u,i,t,s,r\na,b,1500000000000,1,\n"), {"bad_rows": "drop"},
     r"times of different units stand together, .* \(such as 1500000000000 in .*8.csv, data row 1\)"),
], ids=["bad rows", "repeats", "core", "columns", "zero bytes", "cut off", "ragged", "units"])
def test_errors_are_the_same(tmp_path: Path, change: Callable[[Path], object] | None, settings: dict[str, Any],
                             message: str) -> None:
    values = {"source": odd_files(tmp_path / "raw", 900), "filter": settings}
    if change is not None:
        change(tmp_path / "raw")
    told = []
    for number in (0, WORKERS):
        with pytest.raises(DataError, match=message) as caught:
            prepared_files(values, tmp_path / str(number), workers=number)
        told.append(str(caught.value))
        assert not list((tmp_path / str(number)).rglob("*.arrow")), "nothing of a failed attempt waits in files"
    assert told[0] == told[1]


@pytest.mark.parametrize(("change", "message"), [
    (Path.unlink, r"0.csv: on node \S+ it is not there; .*: put them on a disk that all nodes mount"),
    (lambda path: path.write_bytes(path.read_bytes() + b"\n"), r"on node \S+ it has [\d,]+ bytes and [\d,]+ where"),
], ids=["not there", "another"])
def test_a_node_that_has_other_files_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             change: Callable[[Path], object], message: str) -> None:
    class Elsewhere(Careless):
        def run(self, work: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
            calls = list(calls)
            change(tmp_path / "raw" / "0.csv")
            return super().run(work, calls)

    monkeypatch.setattr(stage, "RayTasks", Elsewhere)
    with pytest.raises(DataError, match=message):
        prepared_files({"source": odd_files(tmp_path / "raw")}, tmp_path / "storage", workers=WORKERS)


@pytest.mark.parametrize("path", ["raw", "raw/*", "raw/2.parquet"])
def test_workers_have_another_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    class Elsewhere(Careless):
        def run(self, work: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
            calls = list(calls)
            os.chdir("/")
            yield from super().run(work, calls)
            os.chdir(tmp_path)

    source = odd_files(tmp_path / "raw", 900)
    values = {"source": source | {"interactions": path}, "filter": {"bad_rows": "drop"}}
    monkeypatch.chdir(tmp_path)
    here = prepared_files(values, tmp_path / "here")
    monkeypatch.setattr(stage, "RayTasks", Elsewhere)
    assert prepared_files(values, tmp_path / "there", workers=WORKERS) == here
    assert "read_part" in Careless.made


def test_what_a_killed_process_left_goes_with_its_attempt(tmp_path: Path, storage: Storage) -> None:
    config = PrepareConfig.model_validate({"source": odd_files(tmp_path / "raw"), "filter": {"bad_rows": "drop"},
                                           "execution": {"workers": WORKERS}})
    key = keys.key(config)
    out = artifacts.begin(storage, key)
    with shared_scratch(out) as scratch:
        scratch.write([pl.DataFrame({"n": [1]})])
        (waiting,) = storage.files(out.folder)
    assert not storage.names(out.folder)
    storage.write_bytes(waiting, b"")  # as if it had been killed
    out.release()
    made = prepare(config, artifacts.begin(storage, key))
    assert storage.names(f"{key.folder}/attempts") == [made.manifest.attempt]
    assert not [name for name in storage.files(key.folder) if "scratch" in name]


def test_short_tables_beside_long_ones_are_read_from_a_store_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other read; a refusal is longer than the table's few bytes."""
    pytest.importorskip("moto")
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    asked: list[str] = []

    def every_other(method: str, path: str) -> bool:
        asked.extend([path] * (method == "GET"))
        return method == "GET" and len(asked) % 2 == 1

    tables = [pl.DataFrame({"n": np.arange(count)}) for count in (2**18, 1, 3, 2**18)]
    with refusing_server(every_other) as endpoint:
        uri = {"uri": f"s3://{BUCKET}/x", "endpoint": endpoint, "region": "us-east-1"}
        scratch = Scratch(Storage.from_config(StorageConfig.model_validate(uri)), "storage.uri")
        segments = scratch.write(tables)
        for segment, table in zip(segments, tables, strict=True):
            assert scratch.read([segment]).equals(table)
        assert scratch.read(segments[1:3]).equals(pl.concat(tables[1:3]))
    assert len(asked) == 2 * 6  # each is one request, and one refused


def test_the_error_comes_first_where_the_folder_cannot_go_either(tmp_path: Path, storage: Storage,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no answer")

    out = artifacts.begin(storage, keys.key(PrepareConfig()))
    monkeypatch.setattr(Storage, "delete", refuse)
    with pytest.raises(DataError, match="the first"), shared_scratch(out):
        raise DataError("the first")
    with pytest.raises(OSError, match="no answer"), shared_scratch(out):
        pass


def test_parts_go_together_in_their_order_by_size() -> None:
    def sizes(given: list[int], most: int) -> list[list[int]]:
        groups = grouped([RawPart(pl.LazyFrame(), Path("x"), size, size) for size in given], most)
        return [[part.size for part in group] for group in groups]

    assert sizes([5, 5, 5, 5], 2) == [[5, 5], [5, 5]]
    assert sizes([5, 5], 9) == [[5], [5]]
    assert sizes([1, 1, 1, 97], 2) == [[1, 1, 1], [97]]
    assert sizes([97, 1, 1, 1], 2) == [[97], [1, 1, 1]]
    assert sizes([0, 0], 4) == [[0, 0]]
    many = [size % 7 for size in range(500)]
    found = sizes(many, 12)
    assert sum(found, []) == many and len(found) <= 12 and max(map(sum, found)) < 2 * sum(many) / 12


def test_numbers_of_parts_are_counted_as_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 30, 400)
    whole, parts = Numbering(30), Numbering(30)
    whole.add(Seen.of(rows))
    for start in range(0, 400, 70):
        part = rows[start:start + 70]
        own = rng.permutation(np.unique(part))  # the part's own numbers
        two = np.concatenate([own, own])  # each under two numbers, as 12 and 12.0
        local = np.array([np.flatnonzero(own == row)[0] for row in part]) + len(own) * (rng.random(len(part)) < 0.5)
        parts.add(Seen.of(local), two)
    names = pl.Series([str(number) for number in range(30)])
    found, expected = parts.order(names), whole.order(names)
    assert found.ids.equals(expected.ids) and np.array_equal(found.new, expected.new)
    assert np.array_equal(found.counts_M, expected.counts_M)


def test_in_an_object_store_nothing_is_left_beside_the_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                               s3_endpoint: str) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    values = {"source": odd_files(tmp_path / "raw", 300), "filter": {"bad_rows": "drop"}}
    config = PrepareConfig.model_validate(values | {"execution": {"workers": WORKERS, "history_rows": 50}})
    remote = Storage.from_config(StorageConfig(uri=f"s3://{BUCKET}/{tmp_path.name}", endpoint=s3_endpoint,
                                               region="us-east-1"))
    made = prepare(config, artifacts.begin(remote, keys.key(config)))
    found = {file.removeprefix(f"{made.folder}/"): remote.read_bytes(file) for file in remote.files(made.folder)}
    assert found == prepared_files(values, tmp_path / "local")
    with pytest.raises(DataError, match="missing user id"):
        refused = PrepareConfig.model_validate(values | {"filter": {}, "execution": {"workers": WORKERS}})
        prepare(refused, artifacts.begin(remote, keys.key(refused)))
    assert not [file for file in remote.files("") if "scratch" in file]
