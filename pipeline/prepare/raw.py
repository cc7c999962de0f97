"""What every source hands over: lazy tables with our column names, still in raw ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import polars as pl

RAW_ROW: Final = "raw_row"
"""Place of the interaction in the raw data, an integer from 0, ascending, the files in the given order."""

FIELD: Final = "field:"
"""Prefix of the item columns that hold a text field: ``field:genres``."""

ATTRIBUTE: Final = "attribute:"
"""Prefix of the user columns that hold an attribute: ``attribute:age``."""

TAG: Final = "tag"
"""Text that a user gave to an item."""

UNTIMED: Final = -(2**63)
"""TIMESTAMP of a row without a time where the file's order says when it was."""

TIME_FRACTION: Final = "time_fraction"
"""What TIMESTAMP leaves over of its unit, Float32 in [0, 1)."""

TimeUnit = Literal["auto", "s", "ms", "us", "ns"]


@dataclass(frozen=True)
class RawPart:
    """Interactions of one file, or of a part of it."""

    rows: pl.LazyFrame
    """As ``RawTables.interactions``, without RAW_ROW."""
    path: Path
    file_size: int
    """Bytes of the file."""
    size: int
    """Bytes of the part, about."""


@dataclass(frozen=True)
class RawTables:
    """Lazy raw tables; nothing of the interactions is in memory yet.

    Nothing is checked here: ``encoding.encode`` finds null ids, times that are missing or negative and signals
    that are not numbers, and names their rows.
    """

    interactions: pl.LazyFrame
    """USER_ID String, ITEM_ID String, TIMESTAMP Int64 in ``time_unit`` (all null when ``timeless``; null elsewhere is
    a bad row, ``UNTIMED`` is a row whose time the file's order tells), TIME_FRACTION where times may have one, SIGNAL
    Float32 (null: none; infinite: a bad row), RAW_ROW, and REVIEW String where asked for.
    Any lazy plan that keeps row order: ``scan_csv``, ``scan_parquet``, an IO source that yields batches."""

    items: pl.LazyFrame | None = None
    """ITEM_ID String, TITLE String or null, CATEGORY String, or a list of which ``entities.item_text`` takes one, or
    null, then one String column ``FIELD + name`` per text field, in source order; null or empty where an item lacks the
    field. Of rows with one id the first counts."""

    users: pl.LazyFrame | None = None
    """USER_ID String, then one String column ``ATTRIBUTE + name`` per attribute."""

    tags: pl.LazyFrame | None = None
    """USER_ID, ITEM_ID, TAG String, TIMESTAMP Int64 in seconds; joined to the item text of the training part."""

    timeless: bool = False
    """No timestamps: each user's row order is the order."""

    file_order: bool = False
    """Rows of one user and time keep their row order, and a row without a time stands where the file has it."""

    time_unit: TimeUnit = "s"
    """Unit of TIMESTAMP; ``auto`` tells s, ms, us and ns apart by magnitude."""

    name: str = "interactions"
    """What messages call the interactions: a file, or a generator."""

    row_name: str = "data row"
    """What one row is in the raw file: a data row (the header not counted), or an interaction."""

    written: pl.LazyFrame | None = None
    """RAW_ROW, and USER_ID, ITEM_ID, TIMESTAMP, SIGNAL as the file writes them, String: what messages show."""

    missing_words: tuple[str, ...] = ()
    """Ids and texts that mean a missing value."""

    empty_users: bool = False
    """A null ITEM_ID is a user without items and no bad row."""

    locate: Callable[[int], str] | None = None
    """Says where a RAW_ROW stands when the rows come from several files."""

    parts: Callable[[], Sequence[RawPart]] | None = None
    """The same rows in their order, to be read side by side; None: from one place alone."""

    info: dict[str, Any] = field(default_factory=dict)
    """Notes for ``stats.json``, such as the generator's line about its built-in signal."""

    keep: object | None = None
    """Whatever must live as long as the frames, such as a temporary folder of generated Parquet files."""

    def place(self, row: int) -> str:
        """Where a RAW_ROW stands, counted from 1."""
        return self.locate(row) if self.locate else f"{self.row_name} {row + 1:,}"
