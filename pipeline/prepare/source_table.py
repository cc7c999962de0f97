"""Any CSV, Parquet or JSONL by a column map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from pipeline.prepare.config import TableSource
from pipeline.prepare.files import INTERACTIONS, ITEMS, USERS, Files
from pipeline.prepare.raw import RawTables
from pipeline.prepare.shaping import read_interactions, read_items, read_users
from pipeline.prepare.tables import TableReader


def read_table(source: TableSource, reader: TableReader, files: Files) -> RawTables:
    """Interactions, items and users as the config's column map names them."""
    paths = files[INTERACTIONS]
    interactions, unit = read_interactions(reader, paths, source.columns, source.timestamp_unit)
    fields = list(dict.fromkeys([*([source.title] if source.title else []), *source.text_fields]))
    if source.title in source.text_fields:
        fields = list(source.text_fields)
    items = read_items(reader, files[ITEMS], source.item_id, source.title, source.category,
                       fields) if ITEMS in files else None
    users = read_users(reader, files[USERS], source.user_id, source.attributes) if USERS in files else None
    return RawTables(interactions, items, users, timeless=source.columns.timestamp is None, time_unit=unit,
                     name=source.interactions if len(paths) > 1 else str(paths[0]),
                     locate=(lambda row: _locate(reader, paths, row)) if len(paths) > 1 else None, keep=reader)


def _locate(reader: TableReader, paths: Sequence[Path], row: int) -> str:
    """File and data row of a row that is counted over all files; reads them again, for a message only."""
    for path in paths:
        rows = int(reader.scan(path).select(pl.len()).collect(engine="streaming").item())
        if row < rows:
            return f"{path}, data row {row + 1:,}"
        row -= rows
    return f"row {row + 1:,} after the last file"
