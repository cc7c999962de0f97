"""``items.parquet`` → the item features of the keywords engine, in one pass over the items.

Words are counted as numbers; only those that several items share become features.
Legend: W words, C candidates for features, I items.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from models.ragged import offsets_of
from pipeline.profile import fields as f
from pipeline.profile.candidates import Candidates, Tokens, joined, lists_of
from pipeline.profile.features import Kind
from pipeline.profile.tokens import clean, segments
from pipeline.store.arrow import write_arrow
from pipeline.store.columns import CATEGORY, FIELDS, TITLE

_MAX_TITLE = 200
_MAX_FIELD = 600
"""Longer titles and fields are cut, in characters."""
_SAMPLE_ITEMS = 20_000
"""Items looked at to learn what each field is."""


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
    """Words and values of items as they pass by; flat integer lists, one entry per occurrence."""

    def __init__(self, roles: dict[str, f.Role]) -> None:
        self._roles = roles
        self._words: dict[str, int] = {}
        self._known: dict[str, int] = {}
        self._tokens: list[np.ndarray] = []
        self._token_counts: list[int] = []
        self._title_counts: list[int] = []
        self._values: dict[tuple[Kind, str], int] = {}
        self._value_owner: list[int] = []
        self._value_ids: list[int] = []
        self._prices: list[float] = []
        self._markets: list[str] = []

    def add(self, title: str, category: str | None, fields: dict[str, str]) -> None:
        """One more item."""
        item = len(self._token_counts)
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
        for value in sorted(values):
            self._value_owner.append(item)
            self._value_ids.append(self._values.setdefault(value, len(self._values)))
        self._tokens.append(np.array(tokens, np.int32))
        self._token_counts.append(len(tokens))
        self._prices.append(np.nan if price is None else price)
        self._markets.append(market)

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
        num_items = len(self._token_counts)
        singular_W = _singular(list(self._words))
        tokens = Tokens(singular_W[np.concatenate([*self._tokens, np.zeros(0, np.int32)])],
                         np.repeat(np.arange(num_items), self._token_counts), num_items, list(self._words))
        words_C, words = tokens.words()
        phrases_C, phrases = tokens.phrases(words_C, words)
        candidates = joined([words, phrases, self._value_candidates(singular_W)])
        number_C, kept = candidates.numbered(num_items)

        number_W = np.full(tokens.num_words, -1, np.int32)
        number_W[words_C] = number_C[:len(words_C)]
        number_of_phrase = dict(zip(phrases_C.tolist(), number_C[len(words_C):].tolist(), strict=False))
        features = candidates.table(kept, number_W)
        items = pa.table({
            "features": lists_of(candidates.item_E, number_C[candidates.place_E], num_items),
            "price": np.concatenate([[np.nan], _price_levels(self._prices, self._markets)]).astype(np.float32),
            "title": np.concatenate([[-1], self._title_features(tokens, number_W, number_of_phrase)]).astype(np.int32)})
        return items, features

    def _value_candidates(self, singular_W: np.ndarray) -> Candidates:
        words_C2 = np.full((len(self._values), 2), -1, np.int64)
        for place, (_, text) in enumerate(self._values):
            words = [singular_W[self._words[word]] for word in text.split()[-2:] if word in self._words]
            words_C2[place, :len(words)] = words
        return Candidates([text for _, text in self._values], [kind for kind, _ in self._values], words_C2,
                           np.array(self._value_owner, np.int64), np.array(self._value_ids, np.int64))

    def _title_features(self, tokens: Tokens, number_W: np.ndarray, number_of_phrase: dict[int, int]) -> np.ndarray:
        """Per item the term that spells its whole title (one or two words), else -1."""
        starts = offsets_of(self._token_counts)[:-1]
        result = np.full(len(starts), -1, np.int32)
        for item, (start, count) in enumerate(zip(starts.tolist(), self._title_counts, strict=True)):
            if count > 4:
                continue
            words = [w for w in tokens.word_T[start:start + count].tolist() if w >= 0]
            if len(words) == 1:
                result[item] = number_W[words[0]]
            elif len(words) == 2:
                result[item] = number_of_phrase.get(words[0] * tokens.num_words + words[1], -1)
        return result


def _singular(words: list[str]) -> np.ndarray:
    """Word number → number of its singular where that is a word too; the last entry maps -1 to itself."""
    known = {word: number for number, word in enumerate(words)}
    mapped = [known.get(w[:-1], n) if w.endswith("s") and not w.endswith("ss") else n for n, w in enumerate(words)]
    return np.array([*mapped, -1], np.int32)


def _price_levels(prices: list[float], markets: list[str]) -> np.ndarray:
    """Mid-rank of each price among the known ones of its market, 0…1; NaN stays."""
    price_I = np.array(prices, np.float64)
    _, market_I = np.unique(np.array(markets, object).astype(str), return_inverse=True)
    level_I = np.full(len(price_I), np.nan)
    for market in range(int(market_I.max(initial=-1)) + 1):
        rows = np.flatnonzero((market_I == market) & ~np.isnan(price_I))
        ordered = np.sort(price_I[rows])
        below = np.searchsorted(ordered, price_I[rows], "left") + np.searchsorted(ordered, price_I[rows], "right")
        level_I[rows] = below / (2 * len(rows)) if len(rows) else level_I[rows]
    return level_I
