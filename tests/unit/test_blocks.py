"""Rows in blocks of consecutive users, in files, against rows in memory: the same artifact, byte for byte."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import DataError
from pipeline.prepare import keys
from pipeline.prepare.blocks import Blocks, Interactions, Spill
from pipeline.prepare.config import PrepareConfig
from pipeline.prepare.encoding import Place, encode
from pipeline.prepare.sources import read_source
from pipeline.prepare.stage import prepare
from pipeline.store import artifacts

COLUMNS = {"user": "u", "item": "i", "timestamp": "t", "signal": "s", "review": "r"}
SYNTHETIC = {"kind": "synthetic", "users": 120, "items": 40, "mean_length": 9.0}


def odd_rows(path: Path) -> dict[str, Any]:
    """A table of bad rows, copies, ties, fractions, repeated pairs, reviews, and a user of many rows."""
    draw = random.Random(5)
    lines = ["u,i,t,s,r,number,day"]
    for number in range(3000):
        user = "whale" if draw.random() < 0.1 else f"u{draw.randrange(150)}"
        cells = [user, f"i{draw.randrange(60)}", f"{1.5e9 + draw.randrange(9000) / 4:.2f}",
                 str(draw.randrange(1, 6)), f"text {number}", f"{draw.randrange(90)}{draw.choice(['', '.0'])}",
                 f"202001{draw.randrange(1, 29):02}"]
        for column, (share, bad) in enumerate(((0.01, ""), (0.01, "nan"), (0.01, "9000000000"), (0.2, ""))):
            if draw.random() < share:
                cells[column] = bad
        lines += [",".join(cells)] * (2 if draw.random() < 0.02 else 1)
    path.write_text("\n".join(lines) + "\n")
    return {"kind": "table", "interactions": str(path), "columns": COLUMNS}


def files(values: dict[str, Any], root: Path, rows_at_once: int) -> dict[str, bytes]:
    """What `prepare` writes, but for its manifest."""
    config = PrepareConfig.model_validate(values | {"execution": {"rows_at_once": rows_at_once, "history_rows": 50}})
    artifact = prepare(config, artifacts.begin(Storage.from_config(StorageConfig(uri=str(root))), keys.key(config)))
    made = artifact.local(".")
    return {str(path.relative_to(made)): path.read_bytes() for path in made.rglob("*")
            if path.is_file() and path.name != "manifest.json"}


@pytest.mark.parametrize("rows_at_once", [40, 900])
@pytest.mark.parametrize("values", [
    {"source": SYNTHETIC, "filter": {"k_core": 3}},
    {"source": SYNTHETIC, "split": {"kind": "sessions"}, "filter": {"k_core": 6, "mode": "once"}},
    {"source": SYNTHETIC, "split": {"kind": "global_temporal"}, "cold_start": {"least": 1, "most": 2}},
    {"filter": {"bad_rows": "drop", "min_signal": 2.0, "duplicates": "last", "k_core": 4}},
    {"filter": {"bad_rows": "drop"}, "split": {"kind": "global_temporal", "quantile": 0.7}},
    {"source": {"file_order": True}, "filter": {"bad_rows": "drop"}},
    {"source": {"columns": COLUMNS | {"timestamp": None}}, "filter": {"bad_rows": "drop"}},
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
    whole = files(values, tmp_path / "whole", 10**6)
    blocks = files(values, tmp_path / "blocks", rows_at_once)
    assert blocks.keys() == whole.keys() and not [name for name in blocks if "scratch" in name]
    assert [name for name in whole if blocks[name] != whole[name]] == []


@pytest.mark.parametrize(("settings", "message"), [
    ({}, "with a missing user id: data row "), ({"duplicates": "error", "bad_rows": "drop"}, "rows repeat an item"),
    ({"bad_rows": "drop", "min_signal": 9.0}, "min_signal=9.0 leaves none of the "),
    ({"bad_rows": "drop", "k_core": 99}, "k_core=99 (iterated) leaves none of the ")])
def test_what_is_refused_is_told_in_the_same_words(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    values = {"source": odd_rows(tmp_path / "odd.csv"), "filter": settings}
    told = []
    for rows_at_once in (10**6, 200):
        with pytest.raises(DataError) as caught:
            files(values, tmp_path / f"of-{rows_at_once}", rows_at_once)
        told.append(str(caught.value))
    assert told[0] == told[1] and message in told[0]


def test_a_block_holds_consecutive_users_and_no_more_rows_than_it_may(tmp_path: Path) -> None:
    config = PrepareConfig.model_validate({"source": odd_rows(tmp_path / "odd.csv")})
    encoded = encode(read_source(config.source), "drop", Place(tmp_path, 200))
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
    spill = Spill(tmp_path / "spill", 5, "TMPDIR")
    for start in range(0, 14, 2):
        spill.append(pl.DataFrame({"n": [start, start + 1]}))
    assert (tmp_path / "spill").is_dir() and spill.rows == 14
    for _ in range(2):
        assert pl.concat(spill)["n"].to_list() == list(range(14))
    assert pl.concat(spill.pop())["n"].to_list() == list(range(14))
    assert not list((tmp_path / "spill").iterdir()) and not list(spill)


def test_a_map_of_blocks_deletes_what_it_read(tmp_path: Path) -> None:
    def block(users: list[int]) -> Interactions:
        return Interactions(np.array(users, np.int32), np.array(users, np.int32), None, None, np.arange(len(users)))

    blocks = Blocks.written([block([0, 0]), block([1])], 2, "s", tmp_path, "TMPDIR", "making")
    changed = blocks.map(lambda found: found.take(found.users > 0), "changing")
    assert [found.users.tolist() for found in changed] == [[], [1]]
    assert [path for path in blocks.files if path.exists()] == []
