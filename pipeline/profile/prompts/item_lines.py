"""One line of text per item, written once per artifact and memory-mapped by every actor.

Legend: N interactions of one user, C items per chunk.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.profile.prompts.cleaning import Cleaner
from pipeline.profile.prompts.config import PromptConfig
from pipeline.profile.prompts.domains import signal_of
from pipeline.profile.prompts.fences import SEPARATOR
from pipeline.profile.prompts.item_text import ItemText
from pipeline.profile.prompts.signals import wording
from pipeline.profile.prompts.title_leaks import DistinctiveTitles
from pipeline.store.arrow import open_arrow
from pipeline.store.columns import FIELDS, TITLE

VERSION = 1
"""Raised when the same items, settings and signals give other lines."""
CHUNK_ITEMS = 8192
LINES_FILE = "lines.arrow"
TITLES_FILE = "titles.arrow"
_NOTHING = "(nothing is known of it)"
_SCHEMA = pa.schema([("text", pa.string()), ("title", pa.string())])


@dataclass(frozen=True)
class ItemLines:
    """Lines of all items, item indices 1…n; row 0 is empty."""

    config: PromptConfig
    cleaner: Cleaner
    texts: pa.ChunkedArray
    """string: title and fields; null where an item has no text."""
    distinctive: pa.ChunkedArray
    """string: the title, where a text that holds it names this item; else null."""

    @classmethod
    def build(cls, batches: Iterable[pa.RecordBatch], folder: Path, config: PromptConfig, cleaner: Cleaner
              ) -> dict[str, int]:
        """Write the lines of a catalogue below ``folder``, in one pass and bounded memory (the titles apart).

        Args:
            batches: rows of ``items.parquet`` in index order, columns TITLE and FIELDS.
            folder: made if need be.
            config: which fields are told, and how much of each.
            cleaner: knows the tokenizer's special tokens.

        Returns:
            Facts for the manifest: items, and those without text.

        Raises:
            DataError: a field that the config names stands in no item.
        """
        folder.mkdir(parents=True, exist_ok=True)
        item_text = ItemText(config, cleaner)
        items = without = 0
        with pa.OSFile(str(folder / LINES_FILE), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            rows = itertools.chain([(None, None)], itertools.starmap(item_text.line, _rows(batches)))
            while chunk := list(itertools.islice(rows, CHUNK_ITEMS)):
                texts, titles = zip(*chunk, strict=True)
                items, without = items + len(chunk), without + texts.count(None)
                writer.write_batch(pa.record_batch([pa.array(texts, pa.string()), pa.array(titles, pa.string())],
                                                   schema=_SCHEMA))
        item_text.check_fields()
        _write_titles(folder)
        return {"items": items - 1, "items_without_text": without - 1}

    @classmethod
    def open(cls, folder: Path, config: PromptConfig, cleaner: Cleaner) -> ItemLines:
        """Memory-map what :meth:`build` wrote."""
        return cls(config, cleaner, open_arrow(folder / LINES_FILE)["text"],
                   open_arrow(folder / TITLES_FILE)["title"])

    def lines(self, items_N: Sequence[int] | np.ndarray, signals_N: Sequence[float | None] | np.ndarray | None = None,
              reviews_N: Sequence[str | None] | None = None) -> list[str]:
        """One line per interaction, in order.

        Args:
            items_N: item indices, 1…n.
            signals_N: NaN or None where there is none.
            reviews_N: the user's own texts; told only where the config says so.
        """
        word = wording(signal_of(self.config))
        signals = itertools.repeat(None) if signals_N is None else signals_N
        reviews = itertools.repeat(None) if reviews_N is None or not self.config.reviews else reviews_N
        found = []
        for item, signal, review in zip(items_N, signals, reviews, strict=False):
            parts = [_at(self.texts, int(item)) or _NOTHING]
            if told := word(None if signal is None else float(signal)):
                parts.append(told)
            if review and (told := self.cleaner.line(review, self.config.review_chars)):
                parts.append(f"review: {told}")
            found.append(SEPARATOR.join(parts))
        return found

    def titles(self, items_N: Sequence[int] | np.ndarray) -> list[str]:
        """The distinct titles among the items that would name an item, were they to stand in a profile."""
        told = (_at(self.distinctive, int(item)) for item in items_N)
        return list(dict.fromkeys(title for title in told if title))

    def known(self, items_N: Sequence[int] | np.ndarray) -> np.ndarray:
        """bool [N]: whether anything is known of the item."""
        return np.array([_at(self.texts, int(item)) is not None for item in items_N], bool)


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str | None, dict[str, str]]]:
    for batch in batches:
        for title, fields in zip(batch[TITLE].to_pylist(), batch[FIELDS].to_pylist(), strict=True):
            yield title, {name: value for name, value in fields or () if value}


def _at(column: pa.ChunkedArray, item: int) -> str | None:
    return column.chunk(item // CHUNK_ITEMS)[item % CHUNK_ITEMS].as_py()


def _write_titles(folder: Path) -> None:
    """``titles.arrow`` from the titles of ``lines.arrow``, which are many and read twice."""
    table = open_arrow(folder / LINES_FILE)
    distinctive = DistinctiveTitles(table)
    schema = pa.schema([("title", pa.string())])
    with pa.OSFile(str(folder / TITLES_FILE), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for chunk in table["title"].chunks:
            told = [title if title and distinctive.holds(title) else None for title in chunk.to_pylist()]
            writer.write_batch(pa.record_batch([pa.array(told, pa.string())], schema=schema))
