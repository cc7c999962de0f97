"""Raw files in forms of every kind, and how tests read them."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from pipeline.prepare.blocks import Interactions
from pipeline.prepare.config import InteractionColumns, TableSource
from pipeline.prepare.encoding import Encoded, Place, encode
from pipeline.prepare.raw import RawTables
from pipeline.prepare.sources import read_source
from pipeline.store.columns import ITEM_ID, SIGNAL, TIMESTAMP, USER_ID

ROWS = [("José", "007", "1500000000", "4.5"), ("b", "7", "1500000001", "2")]
NAMES = ("user_id", "item_id", "timestamp", "rating")
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


def encode_all(raw: RawTables, bad_rows: Literal["error", "drop"] = "error") -> Encoded:
    """Raw tables through ``encode``, in one block."""
    return encode(raw, bad_rows, Place(Path("not-there"), 10**6))


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
