"""Settings of `prepare`: where raw data come from, what is dropped, how it is split. Polars-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import Placement
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
    missing_words: tuple[str, ...] = ("nan", "NaN", "None")
    """Ids, texts and attributes that are one of these words are missing, as empty ones are: what pandas writes for a
    missing value. Only whole cells count, as they are spelt; ``[]`` where such words are real."""


class SequencesSource(FileSource):
    """One user per line, `user item item …` in time order; items' text in a second file, `item text…` per line."""

    kind: Literal["sequences"] = "sequences"
    interactions: str = "$MENTOREC_DATA/beauty/user_sequence.txt"
    items: str | None = "$MENTOREC_DATA/beauty/item_text.txt"


class MovieLensSource(FileSource):
    """A MovieLens folder as published: `ratings.csv` and `movies.csv` (latest-small, ML-20M and later), `ratings.dat`
    and `movies.dat` (ML-1M, ML-10M), or `u.data` and `u.item` (ML-100K). The latter two are read as latin-1 where they
    are not UTF-8."""

    kind: Literal["movielens"] = "movielens"
    folder: str = "$MENTOREC_DATA/ml-latest-small"
    tags: bool = False
    """Join the users' tags (`tags.csv`, `tags.dat`) into the item text: only tags that a user gave to an item of his
    own training part, and none after the split's boundary."""
    user_attributes: bool = False
    """Read `users.dat` (ML-1M) or `u.user` (ML-100K) too: gender, age, occupation."""


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


Column = str | Annotated[int, Field(ge=1)]
"""A name in the header, or the position (from 1) in a delimited file that has no header."""


class InteractionColumns(Config):
    """Names in the raw file, or positions (from 1) where a delimited file has no header."""

    user: Column = "user_id"
    item: Column = "item_id"
    timestamp: Column | None = "timestamp"
    """None: the file's row order is each user's order."""
    signal: Column | None = None
    review: Column | None = None


class TableSource(FileSource):
    """Any delimited text, JSON lines or Parquet by a column map; text may be packed with gzip, bzip2, zstd or zip."""

    kind: Literal["table"] = "table"
    interactions: str
    """File, folder of files, or a glob. Below a folder or a glob's first wildcard, files and folders that begin with
    `_` or `.` are passed over, but for what the glob itself calls so; links are followed, and no folder is read
    twice."""
    columns: InteractionColumns = InteractionColumns()
    file_order: bool = False
    """Whether the file's order counts where times do not decide: a user's rows of one time keep it (else their order is
    drawn by `prepare.seed`), and a row without a time stands where the file has it, at the time of the user's row
    before it (at the start: after it), instead of being a bad row."""
    items: str | None = None
    item_id: Column = "item_id"
    title: Column | None = "title"
    category: Column | None = None
    text_fields: tuple[Column, ...] | dict[str, Column] = ()
    """Item columns that describe it, in the order they are told; a mapping gives them other names:
    `{genres: 3}`."""
    users: str | None = None
    user_id: Column = "user_id"
    attributes: tuple[Column, ...] | dict[str, Column] = ()
    """User columns to keep as attributes; a mapping gives them other names."""
    timestamp_unit: Literal["auto", "s", "ms", "us", "ns", "date"] = "auto"
    """`auto` reads Unix seconds, milliseconds, … by their size, with fractions, ISO dates by their form, and numbers as
    YYYYMMDD where all are such dates; mixed units are an error. `date`: ISO dates or YYYYMMDD alone."""
    separator: str = Field(default=",", min_length=1)
    r"""Of delimited text, one or several characters (`::`); a tab is `\t` or `tab`."""
    quotes: bool = True
    r"""Whether `"` encloses fields of delimited text; false where it is a character like any other. With a separator of
    several characters it always is."""

    @field_validator("separator")
    @classmethod
    def _sign(cls, value: str) -> str:
        # `t` is what a shell makes of an unquoted \t.
        sign = {"\\t": "\t", "t": "\t", "tab": "\t", "\\x01": "\x01"}.get(value.lower(), value)
        if any(character.isalnum() or character in "\"\r\n" for character in sign):
            raise ValueError(r"legal: one or several signs such as ',' ';' '|' '::', and '\t' or tab for a tab; "
                             "letters, digits, quotes and line ends stand in the fields themselves")
        return sign

    @model_validator(mode="after")
    def _names_or_positions(self) -> TableSource:
        for file, columns in self.column_groups().items():
            if len({isinstance(column, int) for column in columns}) > 1:
                raise ValueError(f"the columns of {file} are partly names and partly positions "
                                 f"({', '.join(map(repr, columns))}); give all as names, or, of a file without a "
                                 "header, all as positions from 1")
        return self

    def column_groups(self) -> dict[str, list[Column]]:
        """Role of a file → the columns that are read of it."""
        interactions = [self.columns.user, self.columns.item, self.columns.timestamp, self.columns.signal,
                        self.columns.review]
        items = [self.item_id, self.title, self.category, *labelled(self.text_fields).values()]
        users = [self.user_id, *labelled(self.attributes).values()]
        groups: dict[str, list[Column | None]] = {
            "interactions": interactions, "items": items if self.items else [], "users": [*users] if self.users else []}
        return {file: [column for column in columns if column is not None] for file, columns in groups.items()}


def labelled(columns: tuple[Column, ...] | dict[str, Column]) -> dict[str, Column]:
    """Name under which a column is told → the column."""
    return columns if isinstance(columns, dict) else {str(column): column for column in columns}


FileSourceConfig = (SequencesSource | MovieLensSource | AmazonReviewsSource | KionSource | AmazonM2Source
                    | TableSource)
SourceConfig = Annotated[SyntheticSource | FileSourceConfig, Field(discriminator="kind")]


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
    """Rows with a missing id, a missing, negative or impossible time, or a signal that is no number: stop with the row
    numbers and values, or drop and count them."""


class LeaveOneOutSplit(Config):
    """Last item is the test target, the one before it the validation target; users under 3 items only train."""

    kind: Literal["leave_one_out"] = "leave_one_out"


class GlobalTemporalSplit(Config):
    """Train = interactions up to a boundary; test users are those active after it, their last item is the target."""

    kind: Literal["global_temporal"] = "global_temporal"
    quantile: Fraction = 0.8
    """Quantile of all timestamps that gives the boundary (inclusive)."""
    boundary: int | float | None = None
    """A fixed boundary in Unix seconds instead of the quantile; may have a fraction."""
    validation_users: Fraction = 0.2
    """Share of the training users held out whole; their last item up to the boundary is the target. Users with one
    interaction up to it are never drawn."""


class SessionsSplit(Config):
    """Whole users (sessions) of two or more items are held out; the last item is the target. Needs no time."""

    kind: Literal["sessions"] = "sessions"
    test_users: Fraction = 0.1
    validation_users: Fraction = 0.1


SplitConfig = Annotated[LeaveOneOutSplit | GlobalTemporalSplit | SessionsSplit, Field(discriminator="kind")]


class ColdStartConfig(Config):
    """Test targets made cold, after the split: the paper's protocol as we read it; no code of it was published."""

    share: Fraction = 0.4
    """Of the items that are test targets."""
    removed: float = Field(default=0.5, ge=0, le=1)
    """Share of those that lose all their training interactions; the others are cut."""
    least: int = Field(default=6, ge=1)
    """Training interactions that a cut item keeps at least, where it has them."""
    most: int = Field(default=9, ge=1)
    """And at most."""

    @model_validator(mode="after")
    def _ordered(self) -> ColdStartConfig:
        if self.least > self.most:
            raise ValueError(f"least={self.least} must not be above most={self.most}")
        return self


class PrepareExecution(Placement):
    """Never part of a fingerprint."""

    workers: int = Field(default=0, ge=0)
    """Ray tasks at a time, on all nodes, that read the files and work on blocks of users; 0: this process does it. The
    artifact is the same, byte for byte. Tasks read several interaction files side by side, or the row groups of Parquet
    files, at paths that all nodes must have; a single text file is read in this process. What they hand on waits in
    files of the storage. Splitting and writing stay in this process, a block at a time."""
    num_cpus: float = Field(default=1.0, gt=0)
    """CPUs per task, and threads that it reads with."""
    streaming: bool = True
    """Polars' streaming engine."""
    history_rows: int = Field(default=20_000, ge=1)
    """Users per file of training histories (blocks of the profile stage)."""
    rows_at_once: int = Field(default=10_000_000, ge=1)
    """Most interactions of a block of consecutive users. With more in all, a block and its copy are in memory, of each
    task where there are workers, and the others wait in files: beside what is written, or, without workers, below
    TMPDIR where that is an object store."""


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
    catalogue: Literal["interactions", "table"] = "interactions"
    """Which items there are: those with an interaction that stays, or all others of the items' table behind them, too.
    Without a training interaction an item is recommended where its text has a place for it: a text-only student,
    `train.place_untrained`."""
    cold_start: ColdStartConfig | None = None
    """Make a share of the test targets cold; None: none. Drawn by `seed`; `cold_items.parquet` says which."""
    execution: PrepareExecution = PrepareExecution()

    @model_validator(mode="after")
    def _cold_start_stands_alone(self) -> PrepareConfig:
        if self.cold_start is not None and self.extends is not None:
            raise ValueError("cold_start and extends do not go together: rows that cold_start takes away would be "
                             "missing among the earlier ones")
        return self

    @model_validator(mode="after")
    def _split_needs_time(self) -> PrepareConfig:
        timeless = isinstance(self.source, (SequencesSource, AmazonM2Source)) or (
            isinstance(self.source, SyntheticSource) and self.source.sessions) or (
            isinstance(self.source, TableSource) and self.source.columns.timestamp is None)
        if timeless and isinstance(self.split, GlobalTemporalSplit):
            raise ValueError("split.kind=global_temporal needs timestamps and this source "
                             f"(kind={self.source.kind}) has none; use leave_one_out or sessions")
        return self
