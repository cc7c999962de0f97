"""``items.parquet`` → the item features of the keywords engine, in one pass over the items.

Words are counted as numbers; only those that several items share become features.
Legend: T tokens (words in order, -1 where a phrase ends), W words, P phrases, I items, F features,
E, A item–feature pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.profile import fields as f
from pipeline.profile.features import Kind
from pipeline.profile.tokens import clean, segments
from pipeline.store.arrow import write_arrow
from pipeline.store.columns import CATEGORY, FIELDS, TITLE

MIN_ITEMS = 2
"""A word, category or attribute of a single item would name that item; it is never told."""
_MAX_SHARE = 0.5
"""A word of more than this share of the items tells nothing."""
_PHRASE_SHARE = 0.1
"""Two words are a phrase when they stand together in this share of the items of the rarer one."""
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
        num_items, num_words = len(self._token_counts), max(1, len(self._words))
        word_T = np.concatenate([*self._tokens, np.zeros(0, np.int32)])
        owner_T = np.repeat(np.arange(num_items), self._token_counts)
        singular_W = _singular(list(self._words))
        word_T = singular_W[word_T]
        words_W, item_E, word_E = _pairs(owner_T[word_T >= 0], word_T[word_T >= 0].astype(np.int64), num_items)

        phrase_T = _phrases(word_T, owner_T, num_words)
        phrases_P, item_P, phrase_P = _pairs(owner_T[phrase_T >= 0], phrase_T[phrase_T >= 0], num_items)
        count_by_word = np.zeros(num_words, np.int64)
        count_by_word[words_W] = np.bincount(word_E, minlength=len(words_W))
        rarer_P = np.minimum(count_by_word[phrases_P // num_words], count_by_word[phrases_P % num_words])
        together_P = np.bincount(phrase_P, minlength=len(phrases_P))
        solid_P = together_P >= np.maximum(MIN_ITEMS, _PHRASE_SHARE * rarer_P)

        spelled = [*self._words]
        kinds = [Kind.TERM] * (len(words_W) + len(phrases_P)) + [kind for kind, _ in self._values]
        labels = [spelled[w] for w in words_W] + [
            f"{spelled[p // num_words]} {spelled[p % num_words]}" if solid else ""
            for p, solid in zip(phrases_P.tolist(), solid_P, strict=True)] + [text for _, text in self._values]
        base_P, base_V = len(words_W), len(words_W) + len(phrases_P)
        item_A = np.concatenate([item_E, item_P, np.array(self._value_owner, np.int64)])
        feature_A = np.concatenate([word_E, base_P + phrase_P, base_V + np.array(self._value_ids, np.int64)])
        count_F = np.bincount(feature_A, minlength=len(kinds))
        kind_F = np.array(kinds, np.int8)
        told_F = (count_F >= MIN_ITEMS) & ((kind_F != Kind.TERM) | (count_F <= max(MIN_ITEMS, _MAX_SHARE * num_items)))
        told_F[base_P:base_V] &= solid_P

        kept = sorted(np.flatnonzero(told_F).tolist(), key=lambda i: (kinds[i], labels[i]))
        new_F = np.full(len(kinds), -1, np.int32)
        new_F[kept] = np.arange(len(kept), dtype=np.int32)
        feature_of_word = np.full(num_words, -1, np.int32)
        feature_of_word[words_W] = new_F[:base_P]
        parts_F2 = np.full((len(kinds), 2), -1, np.int32)
        parts_F2[base_P:base_V, 0] = feature_of_word[phrases_P // num_words]
        parts_F2[base_P:base_V, 1] = feature_of_word[phrases_P % num_words]
        for place, (_, text) in enumerate(self._values, base_V):
            words = [singular_W[self._words[word]] for word in text.split()[-2:] if word in self._words]
            parts_F2[place, :len(words)] = feature_of_word[words]

        features = pa.table({
            "label": pa.array([labels[i] for i in kept], pa.string()), "kind": kind_F[kept],
            "count": count_F[kept].astype(np.int32), "first": parts_F2[kept, 0], "second": parts_F2[kept, 1]})
        told_A = new_F[feature_A] >= 0
        item_A, feature_A = item_A[told_A] + 1, new_F[feature_A[told_A]]
        order = np.lexsort((feature_A, item_A))
        offsets = np.searchsorted(item_A[order], np.arange(num_items + 2))
        phrase_key = {int(key): int(new_F[base_P + i]) for i, key in enumerate(phrases_P)}
        title_I = self._title_features(word_T, num_words, feature_of_word, phrase_key)
        lists = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(feature_A[order], pa.int32()))
        items = pa.table({
            "features": lists,
            "price": np.concatenate([[np.nan], _price_levels(self._prices, self._markets)]).astype(np.float32),
            "title": np.concatenate([[-1], title_I]).astype(np.int32)})
        return items, features

    def _title_features(self, word_T: np.ndarray, num_words: int, feature_of_word: np.ndarray,
                        phrase_key: dict[int, int]) -> np.ndarray:
        """Per item the term that spells its whole title (one or two words), else -1."""
        starts = np.concatenate([[0], np.cumsum(self._token_counts)])[:-1]
        result = np.full(len(starts), -1, np.int32)
        for item, (start, count) in enumerate(zip(starts.tolist(), self._title_counts, strict=True)):
            if count > 4:
                continue
            words = [w for w in word_T[start:start + count].tolist() if w >= 0]
            if len(words) == 1:
                result[item] = feature_of_word[words[0]]
            elif len(words) == 2:
                result[item] = phrase_key.get(words[0] * num_words + words[1], -1)
        return result


def _pairs(owner: np.ndarray, value: np.ndarray, num_items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct values; then the distinct (item, place among the distinct values) pairs."""
    distinct, place = np.unique(value, return_inverse=True)
    pairs = np.unique(owner * np.int64(max(1, len(distinct))) + place)
    return distinct, pairs // max(1, len(distinct)), pairs % max(1, len(distinct))


def _phrases(word_T: np.ndarray, owner_T: np.ndarray, num_words: int) -> np.ndarray:
    """At each token the number of the phrase it begins with the next one, else -1."""
    phrase_T = np.full(len(word_T), -1, np.int64)
    if len(word_T) > 1:
        joined = (word_T[:-1] >= 0) & (word_T[1:] >= 0) & (owner_T[:-1] == owner_T[1:]) & (word_T[:-1] != word_T[1:])
        keys = word_T[:-1].astype(np.int64) * num_words + word_T[1:]
        phrase_T[:-1][joined] = keys[joined]
    return phrase_T


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
