"""Raw files in forms of every kind, and how tests read them."""

from __future__ import annotations

import gzip
import io
import json
import random
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs

from cluster.config import StorageConfig
from cluster.storage import Storage
from pipeline.prepare import keys
from pipeline.prepare.blocks import Interactions, Place
from pipeline.prepare.config import InteractionColumns, PrepareConfig, TableSource
from pipeline.prepare.encoding import Encoded, encode
from pipeline.prepare.raw import RawTables
from pipeline.prepare.scratch import Scratch
from pipeline.prepare.sources import read_source
from pipeline.prepare.stage import prepare
from pipeline.store import artifacts
from pipeline.store.columns import ITEM_ID, SIGNAL, TIMESTAMP, USER_ID
from pipeline.work.tasks import ThisProcess

ROWS = [("José", "007", "1500000000", "4.5"), ("b", "7", "1500000001", "2")]
NAMES = ("user_id", "item_id", "timestamp", "rating")
ODD_COLUMNS = {"user": "u", "item": "i", "timestamp": "t", "signal": "s", "review": "r"}
CSV = "\n".join(",".join(row) for row in (NAMES, *ROWS)) + "\n"
JSONL = "".join(json.dumps({"user_id": user, "item_id": item, "timestamp": int(when), "rating": float(score)}) + "\n"
                for user, item, when, score in ROWS)
EXPECTED = [("José", "007", 1500000000, 4.5), ("b", "7", 1500000001, 2.0)]
"""What ``read`` gives for ``CSV`` and ``JSONL``, which hold ``ROWS``."""
RATED = InteractionColumns(signal="rating")


def read(path: Path | str, **settings: Any) -> list[tuple[Any, ...]]:
    """Users, items, seconds and signals of an interactions file."""
    settings.setdefault("columns", RATED)
    raw = read_source(TableSource(interactions=str(path), **settings))
    return raw.interactions.select(USER_ID, ITEM_ID, TIMESTAMP, SIGNAL).collect(engine="streaming").rows()


def odd_rows(path: Path, number: int = 3000) -> dict[str, Any]:
    """A table of bad rows, copies, ties, fractions, repeated pairs, reviews, and a user of many rows; its source."""
    draw = random.Random(5)
    lines = ["u,i,t,s,r,number,day"]
    for place in range(number):
        user = "whale" if draw.random() < 0.1 else f"u{draw.randrange(150)}"
        cells = [user, f"i{draw.randrange(60)}", f"{1.5e9 + draw.randrange(9000) / 4:.2f}",
                 str(draw.randrange(1, 6)), f"text {place}", f"{draw.randrange(90)}{draw.choice(['', '.0'])}",
                 f"202001{draw.randrange(1, 29):02}"]
        for column, (share, bad) in enumerate(((0.01, ""), (0.01, "nan"), (0.01, "9000000000"), (0.2, ""))):
            if draw.random() < share:
                cells[column] = bad
        lines += [",".join(cells)] * (2 if draw.random() < 0.02 else 1)
    path.write_text("\n".join(lines) + "\n")
    return {"kind": "table", "interactions": str(path), "columns": ODD_COLUMNS}


def odd_files(folder: Path, number: int = 3000) -> dict[str, Any]:
    """The same rows in files of many kinds, in their order, some of them odd themselves; the source that reads them."""
    folder.mkdir()
    odd_rows(folder / "whole.csv", number)
    rows = pl.read_csv(folder / "whole.csv", infer_schema=False)
    (folder / "whole.csv").unlink()
    edges = [0, *(number * part // 7 for part in range(1, 7)), rows.height]
    parts = [rows[start:end] for start, end in pairwise(edges)]
    parts[0].write_csv(folder / "0.csv")
    rows.clear().write_csv(folder / "1-no-rows.csv")
    parts[1].write_parquet(folder / "2.parquet", row_group_size=max(1, number // 50))
    parts[2].select(reversed(rows.columns)).write_csv(folder / "3-other-order.csv")
    (folder / "4.csv.gz").write_bytes(gzip.compress(parts[3].write_csv().encode()))
    parts[4].write_ndjson(folder / "5.jsonl")
    (folder / "6-bad-rows.csv").write_text("u,i,t,s,r,number,day\n" + ",i1,5,1,,1,20200101\n" * 3)
    parts[5].with_columns(t=pl.col("t").cast(pl.Float64)).write_parquet(folder / "7-numbers.parquet")
    parts[6].write_csv(folder / "8.csv")
    return {"kind": "table", "interactions": str(folder), "columns": ODD_COLUMNS}


def prepared_files(values: dict[str, Any], root: Path, **execution: Any) -> dict[str, bytes]:
    """What `prepare` writes below a storage root, but for its manifest."""
    config = PrepareConfig.model_validate(values | {"execution": {"history_rows": 50} | execution})
    artifact = prepare(config, artifacts.begin(Storage.from_config(StorageConfig(uri=str(root))), keys.key(config)))
    made = artifact.local(".")
    return {str(path.relative_to(made)): path.read_bytes() for path in made.rglob("*")
            if path.is_file() and path.name != "manifest.json"}


def encode_all(raw: RawTables, bad_rows: Literal["error", "drop"] = "error") -> Encoded:
    """Raw tables through ``encode``, in one block."""
    return encode(raw, bad_rows, place_in(Path("not-there"), 10**6))


def place_in(folder: Path, rows_at_once: int) -> Place:
    """This process and a folder, which is there where it is needed."""
    return Place(Scratch(Storage(pafs.LocalFileSystem(), str(folder)), "TMPDIR"), rows_at_once, ThisProcess())


def only_block(encoded: Encoded) -> Interactions:
    """The interactions of ``encode_all``."""
    found, = encoded.blocks
    return found


def zipped(data: bytes, name: str = "inside.csv") -> bytes:
    """A zip archive of one file and of what a Mac adds."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._inside.csv", b"mac")
        archive.writestr(name, data)
    return buffer.getvalue()


def zstd(data: bytes) -> bytes:
    """A Zstandard frame."""
    return pa.compress(data, "zstd", asbytes=True)  # type: ignore[no-any-return]
