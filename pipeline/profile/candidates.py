"""What may become a feature of the keywords engine: words, phrases and values, and which items have them.

Legend: T tokens (words in order, -1 where a phrase ends), W words, C candidates for features, I items,
E, A (item, candidate) and (item, feature) pairs.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Candidates:
    """What may become a feature, and the items that have it, each (item, candidate) pair once."""

    labels: list[str]
    kinds: list[Kind]
    words_C2: np.ndarray
    """The words that it consists of, -1 where there is none; a word does not consist of itself."""
    item_E: np.ndarray
    place_E: np.ndarray
    """The candidate, by its place."""

    def numbered(self, num_items: int) -> tuple[np.ndarray, list[int]]:
        """Candidate → its number as a feature, by kind and label, -1 where it is none; and the features' candidates.

        A feature is shared by items, and a word or phrase not by most of them. What has no label is none.
        """
        count_C, kind_C = self._counts(), np.array(self.kinds, np.int8)
        told_C = (count_C >= MIN_ITEMS) & ((kind_C != Kind.TERM) | (count_C <= max(MIN_ITEMS, _MAX_SHARE * num_items)))
        kept = sorted((place for place in np.flatnonzero(told_C).tolist() if self.labels[place]),
                      key=lambda place: (self.kinds[place], self.labels[place]))
        number_C = np.full(len(self.kinds), -1, np.int32)
        number_C[kept] = np.arange(len(kept), dtype=np.int32)
        return number_C, kept

    def table(self, kept: list[int], number_W: np.ndarray) -> pa.Table:
        """The feature table; the features of its words stand in ``first`` and ``second``."""
        parts_C2 = np.where(self.words_C2 >= 0, number_W[self.words_C2], -1).astype(np.int32)
        return pa.table({
            "label": pa.array([self.labels[place] for place in kept], pa.string()),
            "kind": np.array(self.kinds, np.int8)[kept], "count": self._counts()[kept].astype(np.int32),
            "first": parts_C2[kept, 0], "second": parts_C2[kept, 1]})

    def _counts(self) -> np.ndarray:
        """Items that have each candidate."""
        return np.bincount(self.place_E, minlength=len(self.kinds))


def joined(parts: list[Candidates]) -> Candidates:
    """Candidates of several origins, one after another."""
    bases = np.cumsum([0, *(len(part.kinds) for part in parts)])
    return Candidates(
        [label for part in parts for label in part.labels], [kind for part in parts for kind in part.kinds],
        np.concatenate([part.words_C2 for part in parts]), np.concatenate([part.item_E for part in parts]),
        np.concatenate([base + part.place_E for base, part in zip(bases, parts, strict=False)]))


@dataclass(frozen=True)
class Tokens:
    """The catalogue's texts, one after another."""

    word_T: np.ndarray
    """Word numbers; -1 where a phrase ends."""
    owner_T: np.ndarray
    """The item of each token."""
    num_items: int
    spelling: list[str]
    """Of each word."""

    @property
    def num_words(self) -> int:
        return max(1, len(self.spelling))

    def words(self) -> tuple[np.ndarray, Candidates]:
        """The words that occur, and as candidates."""
        at = self.word_T >= 0
        words_C, item_E, place_E = _pairs(self.owner_T[at], self.word_T[at].astype(np.int64), self.num_items)
        labels = [self.spelling[word] for word in words_C]
        return words_C, Candidates(labels, [Kind.TERM] * len(labels), np.full((len(labels), 2), -1, np.int64), item_E,
                                    place_E)

    def phrases(self, words_C: np.ndarray, words: Candidates) -> tuple[np.ndarray, Candidates]:
        """Pairs of neighbouring words, as numbers and as candidates; a pair that is no phrase has no label."""
        phrase_T = _phrases(self.word_T, self.owner_T, self.num_words)
        at = phrase_T >= 0
        phrases_C, item_E, place_E = _pairs(self.owner_T[at], phrase_T[at], self.num_items)
        words_C2 = np.stack([phrases_C // self.num_words, phrases_C % self.num_words], axis=1)
        items_W = np.zeros(self.num_words, np.int64)
        items_W[words_C] = np.bincount(words.place_E, minlength=len(words_C))
        together_C = np.bincount(place_E, minlength=len(phrases_C))
        solid_C = together_C >= np.maximum(MIN_ITEMS, _PHRASE_SHARE * items_W[words_C2].min(axis=1))
        labels = [f"{self.spelling[first]} {self.spelling[second]}" if solid else ""
                  for (first, second), solid in zip(words_C2.tolist(), solid_C, strict=True)]
        return phrases_C, Candidates(labels, [Kind.TERM] * len(labels), words_C2, item_E, place_E)


def lists_of(item_A: np.ndarray, feature_A: np.ndarray, num_items: int) -> pa.LargeListArray:
    """Per item its features, ascending; the list of row 0 is empty. A feature of -1 is left out."""
    told_A = feature_A >= 0
    item_A, feature_A = item_A[told_A] + 1, feature_A[told_A]
    order = np.lexsort((feature_A, item_A))
    offsets = np.searchsorted(item_A[order], np.arange(num_items + 2))
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(feature_A[order], pa.int32()))


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
