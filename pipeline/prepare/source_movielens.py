"""MovieLens: `ratings.csv`, `movies.csv` and, if asked for, `tags.csv`."""

from __future__ import annotations

import polars as pl

from pipeline.prepare.config import InteractionColumns
from pipeline.prepare.files import INTERACTIONS, ITEMS, TAGS, Files
from pipeline.prepare.raw import FIELD, TAG, RawTables
from pipeline.prepare.shaping import clean, read_interactions
from pipeline.prepare.tables import TableReader
from pipeline.prepare.times import whole_seconds
from pipeline.store.columns import CATEGORY, ITEM_ID, TIMESTAMP, TITLE, USER_ID

COLUMNS = InteractionColumns(user="userId", item="movieId", timestamp="timestamp", signal="rating")


def read_movielens(reader: TableReader, files: Files) -> RawTables:
    """Genres are separated by ``|``; the year ends the title and becomes a field of its own."""
    interactions, unit = read_interactions(reader, files[INTERACTIONS], COLUMNS)
    title = clean(pl.col("title"))
    genres = pl.when(pl.col("genres") != "(no genres listed)").then(pl.col("genres"))
    items = reader.scan(files[ITEMS][0], ["movieId", "title", "genres"]).select(
        pl.col("movieId").alias(ITEM_ID), title.alias(TITLE), genres.str.split("|").list.first().alias(CATEGORY),
        title.alias(FIELD + "title"), title.str.extract(r"\((\d{4})\)$").alias(FIELD + "year"),
        clean(genres.str.replace_all("|", ", ", literal=True)).alias(FIELD + "genres"))
    tags = None
    if TAGS in files:
        tags = reader.scan(files[TAGS][0], ["userId", "movieId", "tag", "timestamp"]).select(
            pl.col("userId").alias(USER_ID), pl.col("movieId").alias(ITEM_ID), clean(pl.col("tag")).alias(TAG),
            whole_seconds("timestamp").alias(TIMESTAMP))
    return RawTables(interactions, items, tags=tags, time_unit=unit, name=str(files[INTERACTIONS][0]), keep=reader)
