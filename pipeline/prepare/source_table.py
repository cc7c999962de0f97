"""Any delimited text, JSON lines or Parquet by a column map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from pipeline.prepare.config import Column, InteractionColumns, TableSource, labelled
from pipeline.prepare.files import INTERACTIONS, ITEMS, USERS, Files
from pipeline.prepare.raw import ATTRIBUTE, FIELD, RawTables
from pipeline.prepare.shaping import read_interactions, read_items, read_users
from pipeline.prepare.tables import TableReader


def read_table(source: TableSource, reader: TableReader, files: Files) -> RawTables:
    """Interactions, items and users as the config's column map names them."""
    paths = files[INTERACTIONS]
    groups = source.column_groups()
    readers = {role: reader.without_header() if all(isinstance(column, int) for column in groups[role]) else reader
               for role in files}
    found = read_interactions(readers[INTERACTIONS], paths, source.columns, source.timestamp_unit, source.file_order)
    if len(paths) > 1:
        found = replace(found, name=source.interactions,
                        locate=lambda row: _locate(readers[INTERACTIONS], paths, source.columns, row))
    return replace(found, items=_items(source, readers[ITEMS], files[ITEMS]) if ITEMS in files else None,
                   users=_users(source, readers[USERS], files[USERS]) if USERS in files else None)


def _items(source: TableSource, reader: TableReader, paths: Sequence[Path]) -> pl.LazyFrame:
    """The title is told first, unless the config gives it a place among the text fields."""
    told = labelled(source.text_fields)
    if source.title is not None and source.title not in told.values():
        told = {source.title if isinstance(source.title, str) else "title": source.title} | told
    items = read_items(reader, paths, str(source.item_id), _name(source.title), _name(source.category),
                       list(dict.fromkeys(map(str, told.values()))))
    return _renamed(items, FIELD, told)


def _users(source: TableSource, reader: TableReader, paths: Sequence[Path]) -> pl.LazyFrame:
    told = labelled(source.attributes)
    return _renamed(read_users(reader, paths, str(source.user_id), list(dict.fromkeys(map(str, told.values())))),
                    ATTRIBUTE, told)


def _renamed(frame: pl.LazyFrame, prefix: str, told: Mapping[str, Column]) -> pl.LazyFrame:
    """The columns of a prefix under the names they are told by, in that order."""
    names = frame.collect_schema().names()
    others = [name for name in names if not name.startswith(prefix)]
    return frame.select(*others, *(pl.col(f"{prefix}{column}").alias(prefix + label) for label, column in told.items()))


def _name(column: Column | None) -> str | None:
    return None if column is None else str(column)


def _locate(reader: TableReader, paths: Sequence[Path], columns: InteractionColumns, row: int) -> str:
    """File and data row of a row that is counted over all files; reads them again, for a message only."""
    for path in paths:
        rows = int(reader.scan(path, {str(columns.item): "id"}).select(pl.len()).collect(engine="streaming").item())
        if row < rows:
            return f"{path}, data row {row + 1:,}"
        row -= rows
    return f"row {row + 1:,} after the last file"
