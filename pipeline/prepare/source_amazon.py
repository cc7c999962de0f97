"""Amazon reviews with product metadata, and the sessions of Amazon-M2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from configs.errors import DataError
from pipeline.prepare.config import AmazonM2Source, AmazonReviewsSource, InteractionColumns
from pipeline.prepare.files import INTERACTIONS, ITEMS, Files
from pipeline.prepare.raw import FIELD, RAW_ROW, RawTables
from pipeline.prepare.shaping import clean, printed_list, read_interactions, read_items
from pipeline.prepare.tables import TableReader
from pipeline.store.columns import CATEGORY, ITEM_ID, SIGNAL, TIMESTAMP, TITLE, USER_ID

USER_NAMES = ("UserId", "reviewerID", "user_id")
ITEM_NAMES = ("ProductId", "asin", "parent_asin", "item_id")
RATING_NAMES = ("Rating", "overall", "rating")
TIME_NAMES = ("Timestamp", "unixReviewTime", "timestamp")
REVIEW_NAMES = ("Review", "reviewText", "text")
CATEGORY_NAMES = ("categories", "category")
PRODUCT_FIELDS = ("title", "description", "categories", "category", "brand", "price")

M2_FIELDS = ("title", "price", "brand", "color", "size", "model", "material", "author", "desc")
_CUT_SHORT = "..."
"""What NumPy prints in place of the middle of an array of more than 1,000 entries."""


def read_amazon_reviews(source: AmazonReviewsSource, reader: TableReader, files: Files) -> RawTables:
    """Reviews by the column names of the CSV (``UserId,ProductId,Rating,Timestamp``) or of the original JSONL."""
    path = files[INTERACTIONS][0]
    names = reader.names(path)
    columns = InteractionColumns(
        user=_one_of(USER_NAMES, names, path), item=_one_of(ITEM_NAMES, names, path),
        timestamp=_one_of(TIME_NAMES, names, path), signal=_one_of(RATING_NAMES, names, path),
        review=_one_of(REVIEW_NAMES, names, path) if source.review_text else None)
    found = read_interactions(reader, [path], columns)
    items = None
    if ITEMS in files:
        names = reader.names(files[ITEMS][0])
        fields = [name for name in PRODUCT_FIELDS if name in names]
        items = read_items(reader, files[ITEMS], _one_of(ITEM_NAMES, names, files[ITEMS][0]),
                           _one_of(("title",), names, files[ITEMS][0]),
                           next((name for name in CATEGORY_NAMES if name in names), None), fields)
    return replace(found, items=items)


def read_amazon_m2(source: AmazonM2Source, reader: TableReader, files: Files) -> RawTables:
    """Every session is one user, in the session's order; the last item is ``next_item``. Products are ``locale:id``."""
    wanted = pl.lit(True) if source.locales is None else pl.col("locale").is_in(list(source.locales))
    seen = printed_list(pl.col("prev_items").fill_null(""))
    whole = pl.when(~pl.col("prev_items").str.contains(_CUT_SHORT, literal=True).fill_null(False)).then(
        pl.concat_list(seen, pl.col("next_item")))  # a cut array gives a null item: a bad row
    sessions = reader.scan(
        files[INTERACTIONS][0], {"prev_items": "text", "next_item": "id", "locale": "text"}).with_row_index("session")
    interactions = sessions.filter(wanted).select(
        pl.format("session {}", pl.col("session") + 1).alias(USER_ID), "locale", whole.alias(ITEM_ID)
    ).explode(ITEM_ID).select(
        USER_ID, pl.concat_str("locale", ITEM_ID, separator=":").alias(ITEM_ID),
        pl.lit(None, pl.Int64).alias(TIMESTAMP), pl.lit(None, pl.Float32).alias(SIGNAL)).with_row_index(RAW_ROW)
    items = reader.scan(files[ITEMS][0], {"id": "id", "locale": "text", "title": "text"}, M2_FIELDS[1:])
    present = items.collect_schema().names()
    items = items.filter(wanted).select(
        pl.concat_str("locale", "id", separator=":").alias(ITEM_ID), clean(pl.col("title")).alias(TITLE),
        pl.col("locale").alias(CATEGORY),
        *(clean(pl.col(name)).alias(FIELD + name) for name in M2_FIELDS if name in present))
    return RawTables(interactions, items, timeless=True, name=str(files[INTERACTIONS][0]), row_name="interaction",
                     keep=reader)


def _one_of(legal: Sequence[str], present: Sequence[str], path: Path) -> str:
    for name in legal:
        if name in present:
            return name
    raise DataError(f"{path}: no column {' or '.join(map(repr, legal))}; present: {', '.join(present)}; "
                    "mend the header, or use source.kind=table with a column map")
