"""MovieLens as published: ratings, movies and, if asked for, tags and users, in three layouts."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import polars as pl

from pipeline.prepare.config import InteractionColumns, MovieLensSource
from pipeline.prepare.csv_batches import Dialect
from pipeline.prepare.files import INTERACTIONS, ITEMS, TAGS, USERS, Files
from pipeline.prepare.forms import form_of
from pipeline.prepare.ids import raw_id
from pipeline.prepare.raw import ATTRIBUTE, FIELD, TAG, RawTables
from pipeline.prepare.shaping import clean, read_interactions
from pipeline.prepare.streams import is_utf8
from pipeline.prepare.tables import TableReader
from pipeline.prepare.times import whole_seconds
from pipeline.store.columns import CATEGORY, ITEM_ID, TIMESTAMP, TITLE, USER_ID

COLUMNS = InteractionColumns(user="userId", item="movieId", timestamp="timestamp", signal="rating")
_POSITIONS: Final = InteractionColumns(user=1, item=2, timestamp=4, signal=3)
_NO_GENRES: Final = "(no genres listed)"
_GENRES_100K: Final = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western")
"""Flags in columns 6 to 24 of ``u.item``."""
_GENDERS: Final = {"F": "female", "M": "male"}
_AGES_1M: Final = {"1": "under 18", "18": "18-24", "25": "25-34", "35": "35-44", "45": "45-49", "50": "50-55",
                   "56": "56 or older"}
_OCCUPATIONS_1M: Final = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service",
    "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer",
    "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer", "tradesman/craftsman",
    "unemployed", "writer")


def read_movielens(source: MovieLensSource, reader: TableReader, files: Files) -> RawTables:
    """The year ends the title and becomes a field of its own; genres and tags are fields too."""
    match files[INTERACTIONS][0].name:
        case "ratings.dat":
            return _read_dat(_published(source, files, Dialect("::", header=False)), files)
        case "u.data":
            return _read_100k(source, files)
    found = read_interactions(reader, files[INTERACTIONS], COLUMNS)
    movies = reader.scan(files[ITEMS][0], {"movieId": "id", "title": "text", "genres": "text"})
    tags = _tags(reader, files, ("userId", "movieId", "tag", "timestamp"))
    return replace(found, items=_items(movies, "movieId", "title", _bar_separated("genres")), tags=tags)


def _read_dat(reader: TableReader, files: Files) -> RawTables:
    """ML-1M and ML-10M: fields separated by ``::``."""
    found = read_interactions(reader, files[INTERACTIONS], _POSITIONS)
    movies = reader.scan(files[ITEMS][0], {"1": "id", "2": "text", "3": "text"})
    users = None
    if USERS in files:
        occupations = {str(code): words for code, words in enumerate(_OCCUPATIONS_1M)}
        users = reader.scan(files[USERS][0], {"1": "id", "2": "text", "3": "text", "4": "text"}).select(
            raw_id("1", pl.String()).alias(USER_ID), pl.col("2").replace(_GENDERS).alias(ATTRIBUTE + "gender"),
            pl.col("3").replace(_AGES_1M).alias(ATTRIBUTE + "age"),
            pl.col("4").replace(occupations).alias(ATTRIBUTE + "occupation"))
    return replace(found, items=_items(movies, "1", "2", _bar_separated("3")), users=users,
                   tags=_tags(reader, files, ("1", "2", "3", "4")))


def _read_100k(source: MovieLensSource, files: Files) -> RawTables:
    """ML-100K: ratings separated by tabs, movies and users by ``|``, a flag per genre."""
    reader = _published(source, files, Dialect("|", quotes=False, header=False))
    ratings = TableReader(source.encoding, Dialect("\t", quotes=False, header=False))
    found = read_interactions(ratings, files[INTERACTIONS], _POSITIONS)
    flags = [str(6 + place) for place in range(len(_GENRES_100K))]
    movies = reader.scan(files[ITEMS][0], {"1": "id", **dict.fromkeys(("2", *flags), "text")})
    genres = pl.concat_list(pl.when(pl.col(flag) == "1").then(pl.lit(genre))
                            for flag, genre in zip(flags, _GENRES_100K, strict=True) if genre != "unknown"
                            ).list.drop_nulls()
    users = None
    if USERS in files:
        users = reader.scan(files[USERS][0], {"1": "id", "2": "text", "3": "text", "4": "text"}).select(
            raw_id("1", pl.String()).alias(USER_ID), pl.col("3").replace(_GENDERS).alias(ATTRIBUTE + "gender"),
            pl.col("2").alias(ATTRIBUTE + "age"), pl.col("4").alias(ATTRIBUTE + "occupation"))
    return replace(found, items=_items(movies, "1", "2", genres), users=users)


def _published(source: MovieLensSource, files: Files, dialect: Dialect) -> TableReader:
    """A reader of the encoding that is set, or latin-1 where the movies are not UTF-8 as published."""
    path = files[ITEMS][0]
    default = MovieLensSource.model_fields["encoding"].default
    as_set = source.encoding != default or is_utf8(path, form_of(path, source.encoding).packed)
    return TableReader(source.encoding if as_set else "latin-1", dialect)


def _items(movies: pl.LazyFrame, item_id: str, name: str, genres: pl.Expr) -> pl.LazyFrame:
    """The item columns of ``RawTables.items``; ``genres`` gives the list of a movie's genres."""
    title = clean(pl.col(name))
    return movies.select(
        raw_id(item_id, pl.String()).alias(ITEM_ID), title.alias(TITLE), genres.list.first().alias(CATEGORY),
        title.alias(FIELD + "title"), title.str.extract(r"\((\d{4})\)$").alias(FIELD + "year"),
        clean(genres.list.join(", ")).alias(FIELD + "genres"))


def _bar_separated(name: str) -> pl.Expr:
    return pl.when(pl.col(name) != _NO_GENRES).then(pl.col(name)).str.split("|")


def _tags(reader: TableReader, files: Files, columns: tuple[str, str, str, str]) -> pl.LazyFrame | None:
    if TAGS not in files:
        return None
    user, item, tag, time = columns
    return reader.scan(files[TAGS][0], {user: "id", item: "id", tag: "text", time: "time"}).select(
        raw_id(user, pl.String()).alias(USER_ID), raw_id(item, pl.String()).alias(ITEM_ID),
        clean(pl.col(tag)).alias(TAG), whole_seconds(time).alias(TIMESTAMP))
