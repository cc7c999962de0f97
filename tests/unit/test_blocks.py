"""Rows in blocks of consecutive users, in files, against rows in memory: the same artifact, byte for byte."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import DataError
from pipeline.prepare import writing
from pipeline.prepare.blocks import Blocks, Interactions
from pipeline.prepare.config import PrepareConfig
from pipeline.prepare.encoding import encode
from pipeline.prepare.scratch import Spill
from pipeline.prepare.sources import read_source
from pipeline.store.arrow import text_bytes
from tests.raw_files import ODD_COLUMNS, odd_rows, place_in, prepared_files

SYNTHETIC = {"kind": "synthetic", "users": 120, "items": 40, "mean_length": 9.0}


@pytest.mark.parametrize("rows_at_once", [40, 900])
@pytest.mark.parametrize("values", [
    {"source": SYNTHETIC, "filter": {"k_core": 3}},
    {"source": SYNTHETIC, "split": {"kind": "sessions"}, "filter": {"k_core": 6, "mode": "once"}},
    {"source": SYNTHETIC, "split": {"kind": "global_temporal"}, "cold_start": {"least": 1, "most": 2}},
    {"filter": {"bad_rows": "drop", "min_signal": 2.0, "duplicates": "last", "k_core": 4}},
    {"filter": {"bad_rows": "drop"}, "split": {"kind": "global_temporal", "quantile": 0.7}},
    {"source": {"file_order": True}, "filter": {"bad_rows": "drop"}},
    {"source": {"columns": ODD_COLUMNS | {"timestamp": None}}, "filter": {"bad_rows": "drop"}},
    {"source": {"columns": {"user": "number", "item": "i", "timestamp": "day"}}, "filter": {"bad_rows": "drop"}},
    {"filter": {"bad_rows": "drop"}, "extends": "earlier"},
], ids=["core", "sessions", "cold", "odd", "odd temporal", "file order", "timeless", "whole ids and days", "extends"])
def test_blocks_change_no_byte(tmp_path: Path, values: dict[str, Any], rows_at_once: int) -> None:
    source = odd_rows(tmp_path / "odd.csv")
    if "kind" not in values.get("source", {}):
        values = values | {"source": source | values.get("source", {})}
    if "extends" in values:
        (tmp_path / "earlier").mkdir()
        for name, column, first in (("users", "user", 0), ("items", "item", 1)):
            ids = ["whale", "u7", "u3"] if name == "users" else ["i9", "i2"]
            pl.DataFrame({f"{column}_idx": range(first, first + len(ids)), f"{column}_id": ids}).write_parquet(
                tmp_path / "earlier" / f"{name}.parquet")
        values = values | {"extends": str(tmp_path / "earlier")}
    whole = prepared_files(values, tmp_path / "whole")
    blocks = prepared_files(values, tmp_path / "blocks", rows_at_once=rows_at_once)
    assert blocks.keys() == whole.keys() and not [name for name in blocks if "scratch" in name]
    assert [name for name in whole if blocks[name] != whole[name]] == []


def test_reviews_are_cut_into_row_groups_by_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(name: str, files: dict[str, bytes]) -> pq.ParquetFile:
        return pq.ParquetFile(pa.BufferReader(files[name]))

    values = {"source": odd_rows(tmp_path / "odd.csv"), "filter": {"bad_rows": "drop"}}
    whole = prepared_files(values, tmp_path / "whole")
    monkeypatch.setattr(writing, "_TEXT_BYTES", 500)
    cut = prepared_files(values, tmp_path / "cut")
    assert prepared_files(values, tmp_path / "blocks", rows_at_once=200) == cut
    texts = {name: "reviews" for name in whole if name.startswith("histories")} | {"interactions.parquet": "review"}
    assert cut.keys() == whole.keys() and all(cut[name] == whole[name] for name in whole if name not in texts)
    whales = 0
    for name, column in texts.items():
        file = read(name, cut)
        assert file.read().equals(read(name, whole).read())
        groups = [file.read_row_group(group) for group in range(file.num_row_groups)]
        sizes = [int(text_bytes(group[column]).sum()) for group in groups]
        assert all(size <= 500 or group.num_rows == 1 for size, group in zip(sizes, groups, strict=True))
        assert all(one + two > 500 for one, two in pairwise(sizes))
        whales += sum(size > 500 for size in sizes)
    assert whales == 1
    monkeypatch.setattr(writing, "_MOST_BYTES", 1500)
    with pytest.raises(DataError, match=r"user 'whale' has \d,\d+ bytes of reviews; legal: 1,500 at most; take the"):
        prepared_files(values, tmp_path / "refused")
    monkeypatch.setattr(writing, "_MOST_BYTES", 8)
    with pytest.raises(DataError, match=r"user '\w+' has 9 bytes of reviews"):
        prepared_files(values, tmp_path / "long")


@pytest.mark.parametrize(("settings", "message"), [
    ({}, "with a missing user id: data row "), ({"duplicates": "error", "bad_rows": "drop"}, "rows repeat an item"),
    ({"bad_rows": "drop", "min_signal": 9.0}, "min_signal=9.0 leaves none of the "),
    ({"bad_rows": "drop", "k_core": 99}, "k_core=99 (iterated) leaves none of the ")])
def test_what_is_refused_is_told_in_the_same_words(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    values = {"source": odd_rows(tmp_path / "odd.csv"), "filter": settings}
    told = []
    for rows_at_once in (10**6, 200):
        with pytest.raises(DataError) as caught:
            prepared_files(values, tmp_path / f"of-{rows_at_once}", rows_at_once=rows_at_once)
        told.append(str(caught.value))
    assert told[0] == told[1] and message in told[0]


def test_a_block_holds_consecutive_users_and_no_more_rows_than_it_may(tmp_path: Path) -> None:
    config = PrepareConfig.model_validate({"source": odd_rows(tmp_path / "odd.csv")})
    encoded = encode(read_source(config.source), "drop", place_in(tmp_path, 200))
    seen = -1
    sizes = []
    for block in encoded.blocks:
        users = np.unique(block.users)
        assert users.tolist() == list(range(seen + 1, int(users[-1]) + 1))
        assert len(block) <= 200 or (len(users) == 1 and encoded.user_ids[int(users[0])] == "whale")
        seen = int(users[-1])
        sizes.append(len(block))
    assert seen == len(encoded.user_ids) - 1 and max(sizes) > 200 > min(sizes)
    assert sum(sizes) == encoded.num_raw - sum(encoded.dropped.values())


def test_tables_wait_in_memory_or_in_files_and_come_in_their_order(tmp_path: Path) -> None:
    scratch = place_in(tmp_path, 5).scratch
    spill = Spill(scratch, 5)
    for start in range(0, 14, 2):
        spill.append(pl.DataFrame({"n": [start, start + 1]}))
    assert len(spill.pieces) == len(list(tmp_path.iterdir())) == 2
    spill.close()
    assert len(spill.pieces) == 3 and scratch.read(spill.pieces)["n"].to_list() == list(range(14))
    scratch.delete(spill.pieces)
    assert not list(tmp_path.iterdir())


def test_tables_in_one_file_are_read_each_by_itself(tmp_path: Path) -> None:
    scratch = place_in(tmp_path, 1).scratch
    tables = [pl.DataFrame({"n": [1, 2], "text": ["a", None]}), pl.DataFrame({"n": [3], "text": ["long " * 9]}),
              pl.DataFrame({"n": [], "text": []}, schema={"n": pl.Int64, "text": pl.String})]
    segments = scratch.write(tables)
    assert len(list(tmp_path.iterdir())) == 1 and [segment.rows for segment in segments] == [2, 1, 0]
    for table, segment in zip(tables, segments, strict=True):
        assert scratch.read([segment]).equals(table)
    assert scratch.read(segments[1:2] + segments[:1])["n"].to_list() == [3, 1, 2]


def test_a_map_of_blocks_deletes_what_it_read(tmp_path: Path) -> None:
    def block(users: list[int]) -> Interactions:
        return Interactions(np.array(users, np.int32), np.array(users, np.int32), None, None, np.arange(len(users)))

    place = place_in(tmp_path, 1)
    tables = [block(users).table() for users in ([0, 0], [1], [1, 2])]
    first, second, third = place.scratch.write(tables)
    blocks = Blocks(None, "s", place, ((first,), (second, third)))
    assert [found.users.tolist() for found in blocks] == [[0, 0], [1, 1, 2]] and blocks.sizes == [2, 3]
    changed, said = blocks.map(from_user, "changing", 1, each=["a", "b"])
    assert [found.users.tolist() for found in changed] == [[], [1, 1, 2]] and said == ["2a", "3b"]
    assert changed.sizes == [0, 3] and list(changed.ask(len, "counting")) == [0, 3]
    assert {path.name for path in tmp_path.iterdir()} == {segment.file for own in changed.files for segment in own}


def from_user(found: Interactions, first: int, name: str) -> tuple[Interactions, str]:
    return found.take(found.users >= first), f"{len(found)}{name}"
