"""The catalogue that a model knows: raw ids, titles, categories, popularity.

Legend: N sequences, V items 1…n.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import ArtifactError, DataError, illegal
from models.ordering import tie_order
from models.ragged import offsets_of
from models.sequences import Sequences
from pipeline.api.filters import Filter, text_id
from pipeline.prepare.definition import INTERACTIONS_FILE, ITEMS_FILE
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import CATEGORY, COUNT, FIRST_TIME, ITEM_ID, ITEM_IDX, LAST_TIME, TIMESTAMP, TITLE

COLUMNS = (ITEM_ID, TITLE, CATEGORY, COUNT, FIRST_TIME, LAST_TIME)
"""Of the table that a catalogue is read from, in item order."""
NEVER: Final = np.iinfo(np.int64).min
"""The time of an item without one: before all others."""
_DAY = 86_400


@dataclass(frozen=True)
class IndexedSequences:
    """Sequences of raw ids as the model reads them."""

    sequences: Sequences
    """Without the items that it does not know."""
    unknown_N: np.ndarray
    """int32, how many those were."""


@dataclass(frozen=True)
class Items:
    """Items 1…n of a model."""

    ids: list[str]
    """Entry i is item i + 1."""
    titles: list[str | None]
    categories: list[str | None]
    counts_V: np.ndarray
    """int64, training interactions."""
    first_V: np.ndarray
    """int64, Unix seconds of the first interaction, or ``NEVER``."""
    last_V: np.ndarray
    """int64, Unix seconds of the last interaction, or ``NEVER``."""

    @classmethod
    def from_table(cls, table: pa.Table, where: str) -> Items:
        """From ``COLUMNS``, in item order.

        Raises:
            ArtifactError: a column is missing, or an id stands twice; ``where`` names the file.
        """
        lacking = [name for name in COLUMNS if name not in table.column_names]
        if lacking:
            raise ArtifactError(f"{where} lacks the columns {', '.join(lacking)}: it is no folder that `mentorec "
                                "export` has written; export the run again, or load the run's folder")
        items = cls(table[ITEM_ID].to_pylist(), table[TITLE].to_pylist(), table[CATEGORY].to_pylist(),
                    table[COUNT].to_numpy().astype(np.int64),
                    *(pc.fill_null(table[name], NEVER).to_numpy() for name in (FIRST_TIME, LAST_TIME)))
        if len(items.index_of) != len(items.ids):
            raise ArtifactError(f"{where}: {len(items.ids) - len(items.index_of)} item ids stand twice; export the run "
                                "again")
        return items

    @classmethod
    def of_prepared(cls, prepared: Artifact) -> Items:
        """Of a `prepare` artifact."""
        return cls.from_table(catalogue(prepared), prepared.relative(ITEMS_FILE))

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def index_of(self) -> dict[str, int]:
        """Raw id → item, 1…n."""
        return {raw: index for index, raw in enumerate(self.ids, 1)}

    @cached_property
    def popular_V(self) -> np.ndarray:
        """int64, items from the most to the least popular; equal ones in the seeded order of ``evaluate``."""
        ordered: np.ndarray = np.lexsort((tie_order(len(self), 0), -self.counts_V)) + 1
        return ordered

    def title(self, index: int) -> str | None:
        """Of an item; None: it has none, or there is no such item (0)."""
        return self.titles[index - 1] if index else None

    def find(self, raw: object) -> int:
        """The item of a raw id.

        Raises:
            DataError: unknown; the message names ids that look alike.
        """
        text = text_id(raw)
        if text not in self.index_of:
            near = difflib.get_close_matches(text, self.ids, n=3) or self.ids[:3]
            raise DataError(illegal("item", text, f"one of the {len(self):,} items that the model knows, such as "
                                    f"{', '.join(near)}"))
        return self.index_of[text]

    def indexed(self, sequences: Any) -> IndexedSequences:
        """Raw ids → items; unknown ones are left out and counted.

        Args:
            sequences: one sequence of ids per user, in time order: lists, arrays, a polars or Arrow column of lists.

        Raises:
            DataError: something else, or an id that is neither text nor a whole number; the row is named.
        """
        rows = as_lists(sequences)
        found: list[int] = []
        lengths, unknown_N = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int32)
        for place, row in enumerate(rows):
            try:
                indices = [self.index_of.get(raw if type(raw) is str else text_id(raw), 0) for raw in row]
            except DataError as exc:
                raise DataError(f"sequence {place}: {exc}") from exc
            known = [index for index in indices if index]
            found += known
            lengths[place], unknown_N[place] = len(known), len(indices) - len(known)
        return IndexedSequences(Sequences(np.array(found, np.int32), offsets_of(lengths)), unknown_N)

    def among(self, chosen: Filter) -> tuple[np.ndarray, int]:
        """The items that a filter lets through, int64 ascending, and how many of its ids are unknown.

        Raises:
            DataError: a category that no item has, none of the allowed ids is known, or days where no interaction has a
                time.
        """
        kept_V = np.ones(len(self), bool)
        unknown = 0
        if chosen.allow is not None:
            allowed, unknown = self._indices(chosen.allow)
            if not len(allowed):
                raise DataError(illegal("filter.allow", f"{unknown} ids", "item ids, of which the model knows one at "
                                        "least", f"its ids look like {', '.join(self.ids[:3])}"))
            kept_V[:] = False
            kept_V[allowed - 1] = True
        if chosen.categories is not None:
            kept_V &= self._of_categories(set(chosen.categories))
        for name, days, times_V in (("new_days", chosen.new_days, self.first_V),
                                    ("active_days", chosen.active_days, self.last_V)):
            if days is not None:
                unheard_V = (self.last_V == NEVER) & (self.counts_V == 0) & (name == "new_days")
                kept_V &= self._within(name, days, times_V) | unheard_V
        denied, more = self._indices(chosen.deny)
        kept_V[denied - 1] = False
        return np.flatnonzero(kept_V) + 1, unknown + more

    def _indices(self, ids: Iterable[object]) -> tuple[np.ndarray, int]:
        found = [self.index_of.get(text_id(raw), 0) for raw in ids]
        known = np.array([index for index in found if index], np.int64)
        return known, len(found) - len(known)

    def _of_categories(self, wanted: set[str]) -> np.ndarray:
        codes, labels = self._coded_categories
        strange = sorted(wanted - labels.keys())
        if strange:
            shown = difflib.get_close_matches(str(strange[0]), labels, n=5) or sorted(labels)[:5]
            raise DataError(illegal("filter.categories", strange[0], f"one of the catalogue's {len(labels):,}, such as "
                                    f"{', '.join(shown) or 'none: its items have no category'}"))
        chosen: np.ndarray = np.isin(codes, [labels[name] for name in wanted])
        return chosen

    def _within(self, name: str, days: float, times_V: np.ndarray) -> np.ndarray:
        newest = int(self.last_V.max())
        if newest == NEVER:
            raise DataError(f"filter.{name}: got {days}, and no interaction of the model's data has a time; "
                            "leave it out")
        within: np.ndarray = (times_V != NEVER) & (times_V >= newest - days * _DAY)
        return within

    @cached_property
    def _coded_categories(self) -> tuple[np.ndarray, dict[str, int]]:
        labels: dict[str, int] = {}
        codes = np.array([labels.setdefault(name, len(labels)) if name else -1 for name in self.categories], np.int64)
        return codes, labels


def catalogue(prepared: Artifact) -> pa.Table:
    """``COLUMNS`` of a `prepare` artifact, in item order; times of all interactions, held-out ones too."""
    items = prepared.read_table(ITEMS_FILE, [ITEM_IDX, ITEM_ID, TITLE, CATEGORY, COUNT])
    times = prepared.read_table(INTERACTIONS_FILE, [ITEM_IDX, TIMESTAMP]).group_by(ITEM_IDX).aggregate(
        [(TIMESTAMP, "min"), (TIMESTAMP, "max")]).select([ITEM_IDX, f"{TIMESTAMP}_min", f"{TIMESTAMP}_max"])
    times = times.rename_columns([ITEM_IDX, FIRST_TIME, LAST_TIME])
    return items.join(times, ITEM_IDX).sort_by(ITEM_IDX).select(list(COLUMNS))


def as_lists(sequences: Any) -> Sequence[Any]:
    """One sequence of ids per row, from what a notebook holds.

    Raises:
        DataError: it is no column or list of sequences.
    """
    if isinstance(sequences, pl.DataFrame):
        raise DataError("sequences: got a polars DataFrame; legal: one of its columns, of lists of item ids: "
                        "frame['items']")
    if isinstance(sequences, (pa.Array, pa.ChunkedArray)):
        sequences = [[] if row is None else row for row in sequences.to_pylist()]
    elif isinstance(sequences, pl.Series):
        sequences = [[] if row is None else row for row in sequences.to_list()]
    if isinstance(sequences, (str, bytes, dict)) or not hasattr(sequences, "__iter__"):
        raise DataError(illegal("sequences", sequences, "one sequence of item ids per user, such as [['a', 'b']]"))
    return [_row(row) for row in sequences]


def _row(row: Any) -> Sequence[Any]:
    if isinstance(row, (list, tuple)):
        return row
    if isinstance(row, np.ndarray) and row.ndim == 1:
        return list(row.tolist())
    if isinstance(row, pl.Series):
        return row.to_list()
    raise DataError(illegal("a sequence", row, "a list of item ids", "there is one per user: write [['a', 'b']] for "
                            "one user who had a and b"))
