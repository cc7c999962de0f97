"""One user per line: `user item item …` in time order; the items' text in a second file, `item text…` per line."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from configs.errors import DataError
from pipeline.prepare.csv_batches import LINE
from pipeline.prepare.files import INTERACTIONS, ITEMS, Files
from pipeline.prepare.raw import FIELD, RAW_ROW, RawTables
from pipeline.prepare.shaping import clean
from pipeline.prepare.tables import TableReader
from pipeline.store.columns import CATEGORY, ITEM_ID, SIGNAL, TIMESTAMP, TITLE, USER_ID
from pipeline.work.text import shorten

_NUMBER = "number"
_FILLED = pl.col(LINE).str.strip_chars() != ""
_SHOWN_WIDTH = 60

def read_sequences(reader: TableReader, files: Files) -> RawTables:
    """Interactions without time and signal; a user's line is his order.

    Raises:
        DataError: a user has two lines, so that their order is unknown, or no line holds a list of items.
    """
    path = files[INTERACTIONS][0]
    tokens = pl.col(LINE).str.strip_chars().str.replace_all(r"\s+", " ").str.split(" ")
    lines = reader.lines(path).with_row_index(_NUMBER, offset=1).filter(_FILLED).select(
        _NUMBER, tokens.list.first().alias(USER_ID), tokens.list.slice(1).alias(ITEM_ID))
    _check_users(lines, path)
    _check_separator(lines, path)
    someone = pl.when(pl.col(ITEM_ID).list.len() > 0).then(pl.col(ITEM_ID))  # null: a row for the user without items
    rows = lines.select(_NUMBER, USER_ID, someone.alias(ITEM_ID)).explode(ITEM_ID).with_row_index(RAW_ROW)
    interactions = rows.select(
        RAW_ROW, USER_ID, ITEM_ID, pl.lit(None, pl.Int64).alias(TIMESTAMP), pl.lit(None, pl.Float32).alias(SIGNAL))
    items = _read_texts(reader, files[ITEMS][0]) if ITEMS in files else None
    return RawTables(interactions, items, timeless=True, name=str(path), keep=reader, empty_users=True,
                     written=rows.select(RAW_ROW, USER_ID, ITEM_ID), locate=lambda row: _locate(rows, row))


def _check_users(lines: pl.LazyFrame, path: Path) -> None:
    twice = lines.select(_NUMBER, USER_ID).group_by(USER_ID).agg(_NUMBER).filter(pl.col(_NUMBER).list.len() > 1)
    repeated = twice.sort(pl.col(_NUMBER).list.first()).head(1).collect(engine="streaming")
    if repeated.height:
        user, numbers = repeated.row(0)
        raise DataError(f"{path}: user {user!r} stands on lines {', '.join(map(str, numbers[:5]))}; a user's items "
                        "belong on one line, in time order: join the lines")


def _check_separator(lines: pl.LazyFrame, path: Path) -> None:
    """Refuse a file without any items, or with lists such as ``a,b,c`` where one item should stand."""
    size, last = pl.col(ITEM_ID).list.len(), pl.coalesce(pl.col(ITEM_ID).list.last(), USER_ID)
    whole = lines.select(size.max().alias("most"), last.str.contains(r"[,;|]").any().alias("listed"))
    most, listed = whole.collect(engine="streaming").row(0)
    if most is None or (most > 0 and not (most == 1 and listed)):
        return
    odd = lines.filter(last.str.contains(r"[,;|]")) if listed else lines
    number, user, items = odd.head(1).collect(engine="streaming").row(0)
    shown = shorten(" ".join([user, *items]), _SHOWN_WIDTH)
    raise DataError(f"{path}: line {number} ({shown!r}) holds no list of items, nor does any other line; legal: one "
                    "user per line, `user item item …`, with spaces or tabs between")


def _locate(rows: pl.LazyFrame, row: int) -> str:
    """The line of a row; reads the file again, for a message only."""
    found = rows.filter(pl.col(RAW_ROW) == row).select(_NUMBER).collect(engine="streaming")
    return f"line {found.item():,}"


def _read_texts(reader: TableReader, path: Path) -> pl.LazyFrame:
    words = clean(pl.col(LINE).str.extract(r"^\s*\S+\s+(.*)$"))
    return reader.lines(path).filter(_FILLED).select(
        pl.col(LINE).str.extract(r"^\s*(\S+)").alias(ITEM_ID), words.alias(TITLE),
        pl.lit(None, pl.String).alias(CATEGORY), words.alias(FIELD + "text"))
