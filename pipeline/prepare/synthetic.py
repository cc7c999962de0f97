"""Generated catalogues as raw tables: written block by block as Parquet, scanned lazily."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.prepare.config import SyntheticSource
from pipeline.prepare.raw import FIELD, RAW_ROW, RawTables
from pipeline.prepare.synthetic_catalogue import Catalogue, catalogue
from pipeline.prepare.synthetic_text import BRAND, DESCRIPTION, INDEX, PRICE, text_blocks
from pipeline.prepare.synthetic_users import Block, block, num_blocks
from pipeline.store.columns import CATEGORY, ITEM_ID, SIGNAL, TIMESTAMP, TITLE, USER_ID
from pipeline.work.progress import track

NOTICE: Final = "signal built in: shows that the machinery works"
"""Stands beside every figure on generated data."""

_FIELDS = (TITLE, CATEGORY, BRAND, PRICE, DESCRIPTION)
"""Text fields in the order they are told."""


def read_synthetic(config: SyntheticSource) -> RawTables:
    """The generated catalogue; its files live in a temporary folder as long as the tables do."""
    folder = tempfile.TemporaryDirectory(prefix="mentorec-synthetic-")
    interactions, items = write_tables(config, Path(folder.name))
    return RawTables(pl.scan_parquet(interactions), pl.scan_parquet(items), timeless=config.sessions,
                     name="the generated catalogue", row_name="interaction", info={"notice": NOTICE}, keep=folder)


def write_tables(config: SyntheticSource, folder: Path) -> tuple[Path, Path]:
    """Write ``interactions.parquet`` and ``items.parquet`` with the columns of :class:`RawTables`; their paths.

    Memory holds one block of users (or items) and the latent properties of all items.
    """
    items = catalogue(config)
    names = item_ids(config)
    paths = folder / "interactions.parquet", folder / "items.parquet"
    schema = pa.schema([(USER_ID, pa.string()), (ITEM_ID, pa.string()), (TIMESTAMP, pa.int64()),
                        (SIGNAL, pa.float32()), (RAW_ROW, pa.int64())])
    row = 0
    with pq.ParquetWriter(paths[0], schema) as writer:
        for part in blocks(config, items):
            count = len(part.items_N)
            times, ratings = pa.array(part.times_N), pa.array(part.ratings_N)
            if config.sessions:
                times, ratings = pa.nulls(count, pa.int64()), pa.nulls(count, pa.float32())
            writer.write_table(pa.table([user_ids(part), names.take(pa.array(part.items_N)), times, ratings,
                                         pa.array(np.arange(row, row + count))], schema=schema))
            row += count
    schema = pa.schema([(name, pa.string()) for name in (ITEM_ID, TITLE, CATEGORY, *(FIELD + f for f in _FIELDS))])
    with pq.ParquetWriter(paths[1], schema) as writer:
        for text in text_blocks(config, items):
            writer.write_table(pa.table([names.take(text[INDEX]), text[TITLE], text[CATEGORY],
                                         *(text[name] for name in _FIELDS)], schema=schema))
    return paths


def blocks(config: SyntheticSource, items: Catalogue) -> Iterator[Block]:
    """All interactions, some thousand users at a time."""
    yield from (block(config, items, number) for number in track(range(num_blocks(config)), "generate", "blocks"))


def item_ids(config: SyntheticSource) -> pa.Array:
    """Raw ids of all items, strings."""
    return _ids("B", np.arange(config.items))


def user_ids(part: Block) -> pa.Array:
    """Raw id of each interaction's user, strings."""
    ids = _ids("U", part.first_user + np.arange(len(part.lengths_B)))
    return ids.take(pa.array(part.users_N - part.first_user))


def _ids(letter: str, numbers: np.ndarray) -> pa.Array:
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, "0")
    return pc.binary_join_element_wise(pa.scalar(letter), digits, "")
