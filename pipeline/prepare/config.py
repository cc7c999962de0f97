"""Settings of `prepare`: where raw data come from, what is dropped, how it is split. Polars-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.base import Config

Fraction = Annotated[float, Field(gt=0, lt=1)]


class SyntheticSource(Config):
    """A generated catalogue whose texts express latent tastes. Figures on it only show that the machinery works."""

    kind: Literal["synthetic"] = "synthetic"
    users: int = Field(default=1000, ge=2)
    items: int = Field(default=1200, ge=2)
    mean_length: float = Field(default=6.0, ge=3)
    """Mean interactions per user; nobody has fewer than 3."""
    tastes: int = Field(default=32, ge=1, le=4096)
    """Latent tastes: clusters of items, each with its own category, brands and words."""
    text_signal: float = Field(default=0.8, ge=0, le=1)
    """Share of an item's words (and chance of its category, brand and price) that its taste chose; the rest is filler
    that all items share. 0: the text says nothing. What users do never depends on it."""
    sequence_strength: float = Field(default=0.2, ge=0, le=1)
    """Chance that the next item is the fixed successor of the last one, within its taste."""
    exploration: float = Field(default=0.1, ge=0, le=1)
    """Chance that a step ignores the user's tastes."""
    drift: float = Field(default=0.3, ge=0, le=1)
    """How far a user's weights move from the first taste to the second over the history."""
    popularity_exponent: float = Field(default=0.8, ge=0)
    """Power law of item popularity; 0: all alike."""
    sessions: bool = False
    """Sessions without timestamps and ratings, as Amazon-M2."""
    seed: int = Field(default=0, ge=0)


class FileSource(Config):
    """Raw files in paths that may hold ``~``, ``$MENTOREC_DATA`` and other environment variables."""

    encoding: str = "utf-8"
    """Of the text files, as Python names it (``latin-1``, ``utf-16``). A byte-order mark is skipped."""


class SequencesSource(FileSource):
    """One user per line, `user item item …` in time order; items' text in a second file, `item text…` per line."""

    kind: Literal["sequences"] = "sequences"
    interactions: str = "$MENTOREC_DATA/beauty/user_sequence.txt"
    items: str | None = "$MENTOREC_DATA/beauty/item_text.txt"


class MovieLensSource(FileSource):
    """`ratings.csv` and `movies.csv` as in ML-20M and ml-latest-small."""

    kind: Literal["movielens"] = "movielens"
    folder: str = "$MENTOREC_DATA/ml-latest-small"
    tags: bool = False
    """Join the users' tags (`tags.csv`) into the item text: only tags that a user gave to an item of his own training
    part, and none after the split's boundary."""


class AmazonReviewsSource(FileSource):
    """Amazon reviews `UserId,ProductId,Rating,Timestamp` (CSV) and product metadata (CSV or JSONL)."""

    kind: Literal["amazon_reviews"] = "amazon_reviews"
    interactions: str
    items: str | None = None
    """Product metadata; its id column is `ProductId`, `asin`, `parent_asin` or `item_id`."""
    review_text: bool = False
    """Keep the reviews' text: a further column `Review`, `reviewText` or `text`."""


class KionSource(FileSource):
    """Kion's `interactions.csv`, `items.csv`, `users.csv`."""

    kind: Literal["kion"] = "kion"
    folder: str
    user_attributes: bool = False
    """Read `users.csv` too: age, income, sex, children."""


class AmazonM2Source(FileSource):
    """Amazon-M2's `sessions_train.csv` (printed arrays) and `products_train.csv`; a product's id is `locale:id`."""

    kind: Literal["amazon_m2"] = "amazon_m2"
    folder: str
    locales: tuple[str, ...] | None = None
    """Only these locales; None: all."""


class InteractionColumns(Config):
    """Names in the raw file."""

    user: str = "user_id"
    item: str = "item_id"
    timestamp: str | None = "timestamp"
    """None: the file's row order is each user's order."""
    signal: str | None = None
    review: str | None = None


class TableSource(FileSource):
    """Any CSV, Parquet or JSONL by a column map."""

    kind: Literal["table"] = "table"
    interactions: str
    """File, or a glob of files."""
    columns: InteractionColumns = InteractionColumns()
    items: str | None = None
    item_id: str = "item_id"
    title: str | None = "title"
    category: str | None = None
    text_fields: tuple[str, ...] = ()
    """Item columns that describe it, in the order they are told."""
    users: str | None = None
    user_id: str = "user_id"
    attributes: tuple[str, ...] = ()
    """User columns to keep as attributes."""
    timestamp_unit: Literal["auto", "s", "ms", "us", "ns", "date"] = "auto"
    """`auto` reads Unix seconds or milliseconds by their size, ISO dates by their form; mixed units are an error."""
    separator: str = Field(default=",", min_length=1, max_length=1)
    """Of CSV files."""


SourceConfig = Annotated[
    SyntheticSource | SequencesSource | MovieLensSource | AmazonReviewsSource | KionSource | AmazonM2Source
    | TableSource,
    Field(discriminator="kind"),
]


class FilterConfig(Config):
    """Which interactions stay."""

    k_core: int = Field(default=0, ge=0)
    """Users and items with fewer interactions are dropped; 0 = off."""
    mode: Literal["iterated", "once"] = "iterated"
    """`iterated` repeats until nothing changes; `once` is one pass, items and users counted on the raw data."""
    min_signal: float | None = None
    """Interactions with a lower signal, or without one, are dropped first."""
    duplicates: Literal["keep", "first", "last", "error"] = "keep"
    """Repeated (user, item): keep all, the first, the last, or stop. Exact (user, item, time) copies always merge;
    where there is no time, a repeated item is a repeated event and no copy."""
    bad_rows: Literal["error", "drop"] = "error"
    """Rows with a null id, a missing, negative or impossible time, or a signal that is no number: stop with the row
    numbers, or drop and count them."""


class LeaveOneOutSplit(Config):
    """Last item is the test target, the one before it the validation target; users under 3 items only train."""

    kind: Literal["leave_one_out"] = "leave_one_out"


class GlobalTemporalSplit(Config):
    """Train = interactions up to a boundary; test users are those active after it, their last item is the target."""

    kind: Literal["global_temporal"] = "global_temporal"
    quantile: Fraction = 0.8
    """Quantile of all timestamps that gives the boundary (inclusive)."""
    boundary: int | None = None
    """A fixed boundary in Unix seconds instead of the quantile."""
    validation_users: Fraction = 0.2
    """Share of the training users held out whole; their last item up to the boundary is the target. Users with one
    interaction up to it are never drawn."""


class SessionsSplit(Config):
    """Whole users (sessions) of two or more items are held out; the last item is the target. Needs no time."""

    kind: Literal["sessions"] = "sessions"
    test_users: Fraction = 0.1
    validation_users: Fraction = 0.1


SplitConfig = Annotated[LeaveOneOutSplit | GlobalTemporalSplit | SessionsSplit, Field(discriminator="kind")]


class PrepareExecution(Config):
    """Never part of a fingerprint."""

    streaming: bool = True
    """Polars' streaming engine."""
    history_rows: int = Field(default=20_000, ge=1)
    """Users per file of training histories (blocks of the profile stage)."""


class PrepareConfig(Config):
    """Raw files → interactions, id maps, splits."""

    source: SourceConfig = SyntheticSource()
    filter: FilterConfig = FilterConfig()
    split: SplitConfig = LeaveOneOutSplit()
    seed: int = 0
    """Orders ties in time and draws held-out users."""
    extends: str | None = None
    """Fingerprint of an earlier `prepare` artifact, or the path of the folder that holds its `items.parquet`: its users
    and items keep their indices, new ones come after them. The source must still hold its interactions, in their order
    and before new rows of the same user and time. Then set a fixed `split.boundary` where there is one."""
    execution: PrepareExecution = PrepareExecution()

    @model_validator(mode="after")
    def _split_needs_time(self) -> PrepareConfig:
        timeless = isinstance(self.source, (SequencesSource, AmazonM2Source)) or (
            isinstance(self.source, SyntheticSource) and self.source.sessions) or (
            isinstance(self.source, TableSource) and self.source.columns.timestamp is None)
        if timeless and isinstance(self.split, GlobalTemporalSplit):
            raise ValueError("split.kind=global_temporal needs timestamps and this source "
                             f"(kind={self.source.kind}) has none; use leave_one_out or sessions")
        return self
