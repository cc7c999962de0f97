"""``items.parquet`` → the item features of the keywords engine, in one pass over the items.

Of an item some hundred bytes are held: its words as numbers. Legend: W words, V values, I items.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from models.ragged import offsets_of
from pipeline.profile import fields as f
from pipeline.profile.candidates import Features, Texts
from pipeline.profile.features import Kind
from pipeline.profile.tokens import clean, segments
from pipeline.store.arrow import write_arrow
from pipeline.store.columns import CATEGORY, FIELDS, TITLE

_MAX_TITLE = 200
_MAX_FIELD = 600
"""Longer titles and fields are cut, in characters."""
_SAMPLE_ITEMS = 20_000
"""Items looked at to learn what each field is."""
_SHORT_TITLE = 4
"""Tokens of a title that may be a term as a whole."""


def build(batches: Iterable[pa.RecordBatch], folder: Path) -> int:
    """Write the features of a catalogue below ``folder``.

    Args:
        batches: rows of ``items.parquet`` in index order, columns TITLE, CATEGORY, FIELDS.

    Returns:
        Items without any feature.
    """
    rows = _rows(batches)
    sample = list(islice(rows, _SAMPLE_ITEMS))
    collector = _Collector(f.roles(fields for _, _, fields in sample))
    for title, category, fields in sample:
        collector.add(title, category, fields)
    for title, category, fields in rows:
        collector.add(title, category, fields)
    items, features = collector.tables()
    folder.mkdir(parents=True, exist_ok=True)
    write_arrow(folder / "items.arrow", items)
    write_arrow(folder / "features.arrow", features)
    return int((np.diff(items["features"].chunk(0).offsets.to_numpy())[1:] == 0).sum())


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, str | None, dict[str, str]]]:
    for batch in batches:
        for title, category, fields in zip(batch[TITLE].to_pylist(), batch[CATEGORY].to_pylist(),
                                           batch[FIELDS].to_pylist(), strict=True):
            yield title or "", category, {name: value for name, value in fields or () if value}


class _Collector:
    """Words and values of items as they pass by, as flat arrays of their numbers."""

    def __init__(self, roles: dict[str, f.Role]) -> None:
        self._roles = roles
        self._words: dict[str, int] = {}
        self._known: dict[str, int] = {}
        self._tokens = array("i")
        self._token_counts = array("i")
        self._title_counts = array("i")
        self._values: dict[tuple[Kind, str], int] = {}
        self._value_ids = array("i")
        self._value_counts = array("i")
        self._prices = array("d")
        self._markets: dict[str, int] = {}
        self._market_ids = array("i")

    def add(self, title: str, category: str | None, fields: dict[str, str]) -> None:
        """One more item."""
        tokens = self._word_ids(title[:_MAX_TITLE])
        self._title_counts.append(len(tokens))
        price, market, year = None, "", None
        values = {(Kind.CATEGORY, part) for part in f.parts(category)}
        for name, text in fields.items():
            role = self._roles.get(name, f.Role.PROSE)
            if role is f.Role.PROSE and text != title:
                tokens += self._word_ids(text[:_MAX_FIELD])
            elif role is f.Role.CATEGORY:
                values.update((Kind.CATEGORY, part) for part in f.parts(text))
            elif role is f.Role.ATTRIBUTE:
                noun = f.field_noun(name)
                values.update((Kind.ATTRIBUTE, f"{noun} {part}") for part in f.parts(text))
            elif role is f.Role.PRICE:
                price = f.price(text)
            elif role is f.Role.MARKET:
                market = text
            elif role is f.Role.YEAR:
                year = text
        decade = f.decade(year, title)
        if decade:
            values.add((Kind.DECADE, decade))
        self._value_ids.extend(self._values.setdefault(value, len(self._values)) for value in sorted(values))
        self._value_counts.append(len(values))
        self._tokens.extend(tokens)
        self._token_counts.append(len(tokens))
        self._prices.append(np.nan if price is None else price)
        self._market_ids.append(self._markets.setdefault(market, len(self._markets)))

    def _word_ids(self, text: str) -> list[int]:
        """Word numbers; -1 where a phrase ends."""
        ids: list[int] = []
        for segment in segments(text):
            for raw in segment:
                found = self._known.get(raw)
                if found is None:
                    word = clean(raw)
                    found = -1 if word is None else self._words.setdefault(word, len(self._words))
                    self._known[raw] = found
                ids.append(found)
            ids.append(-1)
        return ids

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """The item table (row 0 empty) and the feature table."""
        texts = Texts(np.frombuffer(self._tokens, np.int32), offsets_of(self._token_counts), list(self._words),
                      _singular(self._words), list(self._values), np.frombuffer(self._value_ids, np.int32),
                      offsets_of(self._value_counts))
        features = Features(texts, self._value_words(texts.singular_W))
        items = pa.table({
            "features": features.lists(texts),
            "price": np.concatenate([[np.nan], self._price_levels()]).astype(np.float32),
            "title": np.concatenate([np.array([-1], np.int32), *self._title_features(texts, features)])})
        return items, features.table

    def _value_words(self, singular_W: np.ndarray) -> np.ndarray:
        words_V2 = np.full((len(self._values), 2), -1, np.int64)
        for place, (_, text) in enumerate(self._values):
            words = [singular_W[self._words[word]] for word in text.split()[-2:] if word in self._words]
            words_V2[place, :len(words)] = words
        return words_V2

    def _title_features(self, texts: Texts, features: Features) -> Iterator[np.ndarray]:
        """Per item the term that spells its whole title (one or two words), else -1; some items at a time."""
        title_counts = np.frombuffer(self._title_counts, np.int32)
        for portion in texts.portions():
            result = np.full(len(portion), -1, np.int32)
            starts = texts.offsets_I[portion.start:portion.stop]
            counts = title_counts[portion.start:portion.stop]
            titles_I4 = np.full((len(portion), _SHORT_TITLE), -1, np.int64)
            for place in range(_SHORT_TITLE):
                there = (counts > place) & (counts <= _SHORT_TITLE)
                titles_I4[there, place] = texts.singular_W[texts.word_T[starts[there] + place]]
            words_I = (titles_I4 >= 0).sum(axis=1)
            first = np.argmax(titles_I4 >= 0, axis=1)
            one, two = np.flatnonzero(words_I == 1), np.flatnonzero(words_I == 2)
            last = _SHORT_TITLE - 1 - np.argmax(titles_I4[two, ::-1] >= 0, axis=1)
            result[one] = features.number_W[titles_I4[one, first[one]]]
            result[two] = features.phrases(titles_I4[two, first[two]], titles_I4[two, last])
            yield result

    def _price_levels(self) -> np.ndarray:
        """Mid-rank of each price among the known ones of its market, 0…1; NaN stays."""
        price_I, market_I = np.frombuffer(self._prices, np.float64), np.frombuffer(self._market_ids, np.int32)
        level_I = np.full(len(price_I), np.nan)
        for market in range(len(self._markets)):
            rows = np.flatnonzero((market_I == market) & ~np.isnan(price_I))
            ordered = np.sort(price_I[rows])
            below = np.searchsorted(ordered, price_I[rows], "left") + np.searchsorted(ordered, price_I[rows], "right")
            level_I[rows] = below / (2 * len(rows)) if len(rows) else level_I[rows]
        return level_I


def _singular(number: dict[str, int]) -> np.ndarray:
    """Word number → number of its singular where that is a word too; the last entry maps -1 to itself."""
    mapped = [number.get(word[:-1], n) if word.endswith("s") and not word.endswith("ss") else n
              for word, n in number.items()]
    return np.array([*mapped, -1], np.int32)
