"""Kion: `interactions.csv`, `items.csv` and, if asked for, `users.csv`."""

from __future__ import annotations

from dataclasses import replace

from pipeline.prepare.config import InteractionColumns
from pipeline.prepare.files import INTERACTIONS, ITEMS, USERS, Files
from pipeline.prepare.raw import RawTables
from pipeline.prepare.shaping import read_interactions, read_items, read_users
from pipeline.prepare.tables import TableReader

COLUMNS = InteractionColumns(timestamp="last_watch_dt", signal="watched_pct")
FIELDS = ("content_type", "title", "title_orig", "release_year", "genres", "countries", "for_kids", "age_rating",
          "studios", "directors", "actors", "description", "keywords")
ATTRIBUTES = ("age", "income", "sex", "kids_flg")


def read_kion(reader: TableReader, files: Files) -> RawTables:
    """Time is the date of the last watch (UTC midnight), the signal is the share watched in %."""
    found = read_interactions(reader, files[INTERACTIONS], COLUMNS, "date")
    optional = tuple(name for name in FIELDS if name not in ("title", "genres"))
    items = read_items(reader, files[ITEMS], "item_id", "title", "genres", FIELDS, optional, separator=",")
    users = read_users(reader, files[USERS], "user_id", ATTRIBUTES) if USERS in files else None
    return replace(found, items=items, users=users)
