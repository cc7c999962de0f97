"""Writes a generated catalogue in the raw layouts of the paper's data sets, the same bytes for the same settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import ConfigError, StorageError, illegal
from models.ragged import offsets_of
from pipeline.prepare.config import SyntheticSource
from pipeline.prepare.synthetic import blocks, item_ids, user_ids
from pipeline.prepare.synthetic_catalogue import Catalogue, Stream, catalogue, random
from pipeline.prepare.synthetic_text import BRAND, DESCRIPTION, INDEX, PRICE, text_blocks
from pipeline.prepare.synthetic_users import block_users, num_blocks

_PER_LINE = 5
"""Ten-character ids that NumPy prints on one line of 75 characters."""
_LOCALE, _OTHER_LOCALE = "UK", "DE"
_OTHER_EVERY = 50
"""One product in so many is also listed in another locale, under another title."""
_COLORS = ("", "", "Black", "White", "Blue", "Red", "Green")
_COUNTRIES = ("United States", "France", "United Kingdom", "Japan", "Germany", "Spain")
_NAMES = ("Alvarez", "Becker", "Castel", "Dubois", "Eriksen", "Fontana", "Garner", "Hollis", "Ivanova", "Jansen")
_KEYWORDS = ("family", "friends", "holidays", "city", "school", "travel", "summer", "home")
_AGES = ("age_18_24", "age_25_34", "age_35_44", "age_45_54", "age_55_64", "age_65_inf")
_INCOMES = ("income_0_20", "income_20_40", "income_40_60", "income_60_90", "income_90_150", "income_150_inf")


def write_raw_layout(kind: str, config: SyntheticSource, folder: str | Path) -> list[Path]:
    """Write the raw files of one layout and return their paths.

    ``amazon_reviews``: ``interactions.csv``, ``items.csv``; ``movielens``: ``ratings.csv``, ``movies.csv``;
    ``kion``: ``interactions.csv``, ``items.csv``, ``users.csv``; ``amazon_m2``: ``sessions_train.csv``,
    ``products_train.csv``. Users and items come a block at a time; a file appears under its name when it is whole.

    Raises:
        ConfigError: no such layout.
        StorageError: the folder cannot be written.
    """
    if kind not in _LAYOUTS:
        raise ConfigError(illegal("layout", kind, LAYOUTS))
    target, items = Path(folder), catalogue(config)
    try:
        target.mkdir(parents=True, exist_ok=True)
        return [_write(target / name, make(config, items)) for name, make in _LAYOUTS[kind].items()]
    except OSError as exc:
        raise StorageError(f"{exc.filename or target}: cannot be written: {exc.strerror}; name another folder") from exc


def _write(path: Path, frames: Iterable[pl.DataFrame]) -> Path:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        for number, frame in enumerate(frames):
            frame.write_csv(file, include_header=number == 0)
    os.replace(part, path)
    return path


def _reviews(config: SyntheticSource, items: Catalogue) -> Iterator[pl.DataFrame]:
    names = item_ids(config)
    for part in blocks(config, items):
        yield _frame(UserId=user_ids(part), ProductId=names.take(pa.array(part.items_N)), Rating=part.ratings_N,
                     Timestamp=part.times_N)


def _products(config: SyntheticSource, items: Catalogue) -> Iterator[pl.DataFrame]:
    names = item_ids(config)
    for text in text_blocks(config, items):
        categories = pc.binary_join_element_wise("['", text["category"], "']", "")
        yield _frame(ProductId=names.take(text[INDEX]), title=text["title"], description=text[DESCRIPTION],
                     categories=categories, brand=text[BRAND], price=text[PRICE])


def _ratings(config: SyntheticSource, items: Catalogue) -> Iterator[pl.DataFrame]:
    """As in ML-20M, a user's rows stand in the order of the movies, not of time."""
    for part in blocks(config, items):
        order = np.lexsort((part.items_N, part.users_N))
        yield _frame(userId=part.users_N[order] + 1, movieId=part.items_N[order] + 1, rating=part.ratings_N[order],
                     timestamp=part.times_N[order])


def _movies(config: SyntheticSource, items: Catalogue) -> Iterator[pl.DataFrame]:
    for text, rng in _item_blocks(config, items):
        years = pa.array(1940 + _choice(rng, text.num_rows, 76)).cast(pa.string())
        yield _frame(movieId=text[INDEX].to_numpy() + 1,
                     title=pc.binary_join_element_wise(text["title"], " (", years, ")", ""),
                     genres=pc.replace_substring(text["category"], " & ", "|"))


def _watches(config: SyntheticSource, items: Catalogue) -> Iterator[pl.DataFrame]:
    """Signal as % watched, time as a date: several rows of a user share their day."""
    for number, part in enumerate(blocks(config, items)):
        rng = random(config.seed, Stream.LAYOUT, number)
        count = len(part.items_N)
        watched = np.minimum(20 * part.ratings_N.astype(np.int64) - _choice(rng, count, 20), 100)
        days = pl.from_epoch(pl.Series(part.times_N // 86_400), time_unit="d").dt.to_string("%Y-%m-%d")
        yield _frame(user_id=part.users_N + 1, item_id=part.items_N + 1, last_watch_dt=days,
                     total_dur=watched * (30 + _choice(rng, count, 60)), watched_pct=watched)


def _films(config: SyntheticSource, items: Catalogue) -> Iterator[pl.DataFrame]:
    for text, rng in _item_blocks(config, items):
        count = text.num_rows
        actors = pc.binary_join_element_wise(_some(rng, count, _NAMES), _some(rng, count, _NAMES), ", ")
        keywords = pc.binary_join_element_wise(_some(rng, count, _KEYWORDS), _some(rng, count, _KEYWORDS), ", ")
        yield _frame(item_id=text[INDEX].to_numpy() + 1, content_type=_some(rng, count, ("film", "series")),
                     title=text["title"], title_orig=pc.if_else(_share(rng, count, 0.7), text["title"], ""),
                     release_year=(1960 + _choice(rng, count, 62)).astype(np.float64),
                     genres=pc.replace_substring(text["category"], " & ", ", "),
                     countries=_some(rng, count, _COUNTRIES), for_kids=_some(rng, count, ("", "", "0.0", "1.0")),
                     age_rating=_some(rng, count, ("0.0", "6.0", "12.0", "16.0", "18.0")), studios=text[BRAND],
                     directors=_some(rng, count, _NAMES), actors=actors, description=text[DESCRIPTION],
                     keywords=keywords)


def _viewers(config: SyntheticSource, items: Catalogue) -> Iterator[pl.DataFrame]:
    """Attributes of nine users in ten."""
    size = block_users(config)
    for number in range(num_blocks(config)):
        rng = random(config.seed, Stream.LAYOUT, 2**32 + number)
        users = np.arange(number * size, min((number + 1) * size, config.users))
        count = len(users)
        yield _frame(user_id=users + 1, age=_some(rng, count, _AGES), income=_some(rng, count, _INCOMES),
                     sex=_some(rng, count, ("M", "F")), kids_flg=_choice(rng, count, 2)
                     ).filter(pl.Series(rng.random(count) < 0.9))


def _sessions(config: SyntheticSource, items: Catalogue) -> Iterator[pl.DataFrame]:
    """A session's last item is `next_item`; the others are printed as NumPy prints an array of strings."""
    quoted = pc.binary_join_element_wise("'", item_ids(config), "'", "")
    names = item_ids(config)
    for part in blocks(config, items):
        ends_B = np.cumsum(part.lengths_B)
        place_N = np.arange(len(part.items_N)) - np.repeat(ends_B - part.lengths_B, part.lengths_B)
        before_N = np.where(place_N == 0, "[", np.where(place_N % _PER_LINE == 0, "\n ", " "))
        shown = pc.binary_join_element_wise(pa.array(before_N), quoted.take(pa.array(part.items_N)), "")
        is_last_N = np.zeros(len(part.items_N), bool)
        is_last_N[ends_B - 1] = True
        offsets = pa.array(offsets_of(part.lengths_B - 1), pa.int32())
        lists = pa.ListArray.from_arrays(offsets, shown.filter(pa.array(~is_last_N)))
        yield _frame(prev_items=pc.binary_join_element_wise(pc.binary_join(lists, ""), "]", ""),
                     next_item=names.take(pa.array(part.items_N[is_last_N])),
                     locale=np.repeat(_LOCALE, len(part.lengths_B)))


def _localized(config: SyntheticSource, items: Catalogue) -> Iterator[pl.DataFrame]:
    names = item_ids(config)
    for text, rng in _item_blocks(config, items):
        count = text.num_rows
        frame = _frame(id=names.take(text[INDEX]), locale=np.repeat(_LOCALE, count), title=text["title"],
                       price=text[PRICE], brand=text[BRAND], color=_some(rng, count, _COLORS),
                       size=_some(rng, count, ("", "", "S", "M", "L", "XL")), model=np.repeat("", count),
                       material=_some(rng, count, ("", "", "Cotton", "Steel", "Wood")), author=np.repeat("", count),
                       desc=text[DESCRIPTION])
        other = frame.filter(pl.Series(text[INDEX].to_numpy() % _OTHER_EVERY == 0)).with_columns(
            locale=pl.lit(_OTHER_LOCALE), title=pl.concat_str(pl.col("brand"), pl.lit(" Andere Ware")))
        yield pl.concat([frame, other])


Frames = Callable[[SyntheticSource, Catalogue], Iterator[pl.DataFrame]]
_LAYOUTS: Final[dict[str, dict[str, Frames]]] = {
    "amazon_reviews": {"interactions.csv": _reviews, "items.csv": _products},
    "movielens": {"ratings.csv": _ratings, "movies.csv": _movies},
    "kion": {"interactions.csv": _watches, "items.csv": _films, "users.csv": _viewers},
    "amazon_m2": {"sessions_train.csv": _sessions, "products_train.csv": _localized},
}
LAYOUTS: Final = tuple(_LAYOUTS)


def _item_blocks(config: SyntheticSource, items: Catalogue) -> Iterator[tuple[pa.Table, np.random.Generator]]:
    """Item texts, and what draws the layout's own columns of the same items."""
    for number, text in enumerate(text_blocks(config, items)):
        yield text, random(config.seed, Stream.LAYOUT, 2**33 + number)


def _frame(**columns: pa.Array | pa.ChunkedArray | np.ndarray | pl.Series) -> pl.DataFrame:
    """Empty texts become nulls, which CSV writes as nothing."""
    frame = pl.DataFrame({name: column if isinstance(column, pl.Series) else pl.Series(column)
                          for name, column in columns.items()})
    return frame.with_columns(pl.col(pl.String).replace("", None))


def _some(rng: np.random.Generator, count: int, options: tuple[str, ...]) -> pa.Array:
    return pa.array(options).take(pa.array(_choice(rng, count, len(options))))


def _share(rng: np.random.Generator, count: int, share: float) -> pa.Array:
    return pa.array(rng.random(count) < share)


def _choice(rng: np.random.Generator, count: int, options: int) -> np.ndarray:
    return (rng.random(count) * options).astype(np.int64)
