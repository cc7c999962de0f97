"""One user per line: `user item item …` in time order; the items' text in a second file, `item text…` per line."""

from __future__ import annotations

import polars as pl

from configs.errors import DataError
from pipeline.prepare.csv_batches import LINE
from pipeline.prepare.files import INTERACTIONS, ITEMS, Files
from pipeline.prepare.raw import FIELD, RAW_ROW, RawTables
from pipeline.prepare.shaping import clean
from pipeline.prepare.tables import TableReader
from pipeline.store.columns import CATEGORY, ITEM_ID, SIGNAL, TIMESTAMP, TITLE, USER_ID


def read_sequences(reader: TableReader, files: Files) -> RawTables:
    """Interactions without time and signal; a user's line is his order.

    Raises:
        DataError: a user has two lines, so that their order is unknown.
    """
    path = files[INTERACTIONS][0]
    tokens = pl.col(LINE).str.strip_chars().str.replace_all(r"\s+", " ").str.split(" ")
    lines = reader.lines(path).with_row_index("number", offset=1).filter(pl.col(LINE).str.strip_chars() != "").select(
        "number", tokens.list.first().alias(USER_ID), tokens.list.slice(1).alias(ITEM_ID))
    twice = lines.select("number", USER_ID).group_by(USER_ID).agg("number").filter(pl.col("number").list.len() > 1)
    repeated = twice.sort(pl.col("number").list.first()).head(1).collect(engine="streaming")
    if repeated.height:
        user, numbers = repeated.row(0)
        raise DataError(f"{path}: user {user!r} stands on lines {', '.join(map(str, numbers[:5]))}; a user's items "
                        "belong on one line, in time order: join the lines")
    someone = pl.when(pl.col(ITEM_ID).list.len() > 0).then(pl.col(ITEM_ID))  # null: a row that names the empty line
    interactions = lines.select(USER_ID, someone.alias(ITEM_ID)).explode(ITEM_ID).select(
        USER_ID, ITEM_ID, pl.lit(None, pl.Int64).alias(TIMESTAMP), pl.lit(None, pl.Float32).alias(SIGNAL)
    ).with_row_index(RAW_ROW)
    items = None
    if ITEMS in files:
        words = clean(pl.col(LINE).str.extract(r"^\s*\S+\s+(.*)$"))
        items = reader.lines(files[ITEMS][0]).filter(pl.col(LINE).str.strip_chars() != "").select(
            pl.col(LINE).str.extract(r"^\s*(\S+)").alias(ITEM_ID), words.alias(TITLE),
            pl.lit(None, pl.String).alias(CATEGORY), words.alias(FIELD + "text"))
    return RawTables(interactions, items, timeless=True, name=str(path), row_name="interaction", keep=reader)
