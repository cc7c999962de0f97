"""What becomes a feature of the keywords engine: words, phrases and values that several items share, in two passes over
the texts, a portion of the items at a time.

Legend: T tokens (words in order, -1 where a phrase ends), W words, P phrases, V values, I items, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.profile.features import Kind

MIN_ITEMS = 2
"""A word, category or attribute of a single item would name that item; it is never told."""
_MAX_SHARE = 0.5
"""A word of more than this share of the items tells nothing."""
_PHRASE_SHARE = 0.1
"""Two words are a phrase when they stand together in this share of the items of the rarer one."""
_PORTION = 1_000_000
"""Tokens, values and items worked on at once: some 60 MB."""


@dataclass(frozen=True)
class Texts:
    """The catalogue's texts and values, item after item."""

    word_T: np.ndarray
    """int32 word numbers as they were read; -1 where a phrase ends."""
    offsets_I: np.ndarray
    """[I + 1] in word_T."""
    spelling: list[str]
    """Of each word."""
    singular_W: np.ndarray
    """Word → its singular where that is a word too; the last entry maps -1 to itself."""
    values: list[tuple[Kind, str]]
    value_E: np.ndarray
    """Values of the items, each once per item."""
    value_offsets_I: np.ndarray
    """[I + 1] in value_E."""

    @property
    def num_items(self) -> int:
        return len(self.offsets_I) - 1

    @property
    def num_words(self) -> int:
        return max(1, len(self.spelling))

    def portions(self) -> Iterator[Portion]:
        """Consecutive items, ``_PORTION`` at most; a longer item is a portion of its own."""
        start, size_I = 0, self.offsets_I + self.value_offsets_I + np.arange(len(self.offsets_I))
        while start < self.num_items:
            stop = int(np.searchsorted(size_I, size_I[start] + _PORTION, "right")) - 1
            stop = max(stop, start + 1)
            yield Portion(self, start, stop)
            start = stop


@dataclass(frozen=True)
class Portion:
    """The items from ``start`` on, before ``stop``."""

    texts: Texts
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def words(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each word its item, counted from ``start``, and its number; phrases' ends included."""
        bounds = self.texts.offsets_I[self.start:self.stop + 1]
        word_T = self.texts.singular_W[self.texts.word_T[bounds[0]:bounds[-1]]]
        return np.repeat(np.arange(len(self)), np.diff(bounds)), word_T

    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each value its item, counted from ``start``, and its number."""
        bounds = self.texts.value_offsets_I[self.start:self.stop + 1]
        return np.repeat(np.arange(len(self)), np.diff(bounds)), self.texts.value_E[bounds[0]:bounds[-1]]


class Features:
    """Those words, phrases and values that are told, numbered by kind and label."""

    def __init__(self, texts: Texts, value_words_V2: np.ndarray) -> None:
        """
        Args:
            value_words_V2: the words that each value consists of, -1 where there is none.
        """
        items_W, phrases_P, together_P = _counted(texts)
        items_V = np.bincount(texts.value_E, minlength=len(texts.values))
        parts_P2 = np.stack([phrases_P // texts.num_words, phrases_P % texts.num_words], axis=1)
        solid_P = together_P >= np.maximum(MIN_ITEMS, _PHRASE_SHARE * items_W[parts_P2].min(axis=1))
        most = max(MIN_ITEMS, _MAX_SHARE * texts.num_items)
        words = np.flatnonzero((items_W >= MIN_ITEMS) & (items_W <= most)).tolist()
        phrases = np.flatnonzero(solid_P & (together_P <= most)).tolist()
        values = [value for value in np.flatnonzero(items_V >= MIN_ITEMS).tolist() if texts.values[value][1]]

        spelling = texts.spelling
        labels = [*(spelling[word] for word in words),
                  *(f"{spelling[first]} {spelling[second]}" for first, second in parts_P2[phrases].tolist()),
                  *(texts.values[value][1] for value in values)]
        kinds = [Kind.TERM] * (len(words) + len(phrases)) + [texts.values[value][0] for value in values]
        order = sorted(range(len(labels)), key=lambda place: (kinds[place], labels[place]))
        number = np.empty(len(order), np.int32)
        number[order] = np.arange(len(order), dtype=np.int32)

        self._num_words = texts.num_words
        self.number_W = np.full(texts.num_words, -1, np.int32)
        """The feature that a word is, -1: none."""
        self.number_W[words] = number[:len(words)]
        self._phrase_K = phrases_P[phrases]
        self._number_K = number[len(words):len(words) + len(phrases)]
        self._number_V = np.full(len(texts.values), -1, np.int32)
        self._number_V[values] = number[len(words) + len(phrases):]
        parts_C2 = np.concatenate([np.full((len(words), 2), -1), parts_P2[phrases], value_words_V2[values]])
        first_C, second_C = np.where(parts_C2 >= 0, self.number_W[parts_C2], -1).astype(np.int32).T
        count_C = np.concatenate([items_W[words], together_P[phrases], items_V[values]]).astype(np.int32)
        self.table = pa.table({
            "label": pa.array([labels[place] for place in order], pa.string()),
            "kind": np.array(kinds, np.int8)[order], "count": count_C[order], "first": first_C[order],
            "second": second_C[order]})
        """One row per feature; the features of its words stand in ``first`` and ``second``."""

    def phrases(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """The features that pairs of word numbers are, -1: none."""
        key = first.astype(np.int64) * self._num_words + second
        if not len(self._phrase_K):
            return np.full(len(key), -1, np.int32)
        place = np.minimum(np.searchsorted(self._phrase_K, key), len(self._phrase_K) - 1)
        return np.where(self._phrase_K[place] == key, self._number_K[place], -1)

    def lists(self, texts: Texts) -> pa.LargeListArray:
        """Per item its features, ascending; the list of row 0 is empty."""
        counts, found = [np.zeros(1, np.int64)], [np.zeros(0, np.int32)]
        for portion in texts.portions():
            owner_T, word_T = portion.words()
            begin_T = _pairs_begin(owner_T, word_T)
            owner_V, value_V = portion.values()
            owner = np.concatenate([owner_T, owner_T[:-1][begin_T], owner_V])
            number = np.concatenate([np.where(word_T >= 0, self.number_W[word_T], -1),
                                     self.phrases(word_T[:-1][begin_T], word_T[1:][begin_T]), self._number_V[value_V]])
            base = max(1, self.table.num_rows)
            pairs = np.unique(owner[number >= 0] * np.int64(base) + number[number >= 0])
            counts.append(np.bincount(pairs // base, minlength=len(portion)))
            found.append((pairs % base).astype(np.int32))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))])
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(np.concatenate(found), pa.int32()))


def _pairs_begin(owner_T: np.ndarray, word_T: np.ndarray) -> np.ndarray:
    """bool [T - 1]: a token and the next one may be a phrase: different words of one stretch."""
    found: np.ndarray = ((word_T[:-1] >= 0) & (word_T[1:] >= 0) & (owner_T[:-1] == owner_T[1:])
                         & (word_T[:-1] != word_T[1:]))
    return found


def _counted(texts: Texts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items of each word; then the phrases that occur (first × words + second), ascending, and the items of each."""
    items_W = np.zeros(texts.num_words, np.int64)
    runs = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for portion in texts.portions():
        owner_T, word_T = portion.words()
        words, items = _items_of(owner_T[word_T >= 0], word_T[word_T >= 0])
        items_W[words] += items
        begin_T = _pairs_begin(owner_T, word_T)
        runs.append(_items_of(owner_T[:-1][begin_T],
                              word_T[:-1][begin_T].astype(np.int64) * texts.num_words + word_T[1:][begin_T]))
        while len(runs) > 1 and len(runs[-2][0]) <= len(runs[-1][0]):  # as merge sort: each phrase is moved log times
            runs[-2:] = [_merged(*runs[-2:])]
    while len(runs) > 1:
        runs[-2:] = [_merged(*runs[-2:])]
    return items_W, *runs[0]


def _merged(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]
            ) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of both, ascending, and the sums of their counts."""
    counts = np.concatenate([one[1], other[1]])
    distinct, place = np.unique(np.concatenate([one[0], other[0]]), return_inverse=True)
    return distinct, np.bincount(place, counts, minlength=len(distinct)).astype(np.int64)


def _items_of(owner: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values, ascending, and how many owners have each."""
    distinct, place = np.unique(value, return_inverse=True)
    base = max(1, len(distinct))
    pairs = np.unique(owner * np.int64(base) + place)
    return distinct, np.bincount(pairs % base, minlength=len(distinct))
