"""Which titles give an item away (the distinctive ones), and whether a text holds one.

A profile may say "cream" or "tea tree oil" though items are called that; it may not say "Toy Story". So a title is
distinctive when it is long enough, and when its words are no phrase that other items' texts hold too. Long titles are
looked for in any spelling; short ones, and runs of words out of long ones, only in their own capital letters, which a
text gives to names alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]")
_YEAR = re.compile(r"\s*\((?:1[89]|20)\d\d\)\s*$")
_ARTICLE = re.compile(r"^(.*), (The|A|An|Le|La|Les|L'|Il|El|Der|Die|Das)$")
SHORT_WORDS = 4
"""Titles of up to so many words must stand in their own capitals; a single word names nothing."""
_SHARED = 2
"""A short title whose words stand together in the texts of so many other items is a phrase. A text that begins with
them does not count: sequels do."""
_WIDE_CHARS = 6
"""A title without spaces between words, such as a Japanese one, must have so many characters."""
_RUN_WORDS, _RUN_CAPITALS = 6, 4
"""So many words of a longer title in a row, so many of them capitalised or numbers, name the item as the whole does."""


def plain_title(title: str) -> str:
    """A title as a text would give it: ``Matrix, The (1999)`` → ``The Matrix``."""
    title = _YEAR.sub("", title)
    article = _ARTICLE.match(title)
    return f"{article.group(2)} {article.group(1)}" if article else title


class DistinctiveTitles:
    """Decides for the titles of a catalogue; holds its short ones."""

    def __init__(self, items: pa.Table) -> None:
        """
        Args:
            items: columns ``title`` and ``text`` (the title first, then the fields) of all items; gone through twice.
        """
        self._times: Counter[tuple[str, ...]] = Counter()
        for title, _ in _rows(items):
            words = _folded(title)
            if 2 <= len(words) <= SHORT_WORDS:
                self._times[words] = 0
        for title, text in _rows(items):
            own, words = _folded(title), tuple(word.casefold() for word in _WORD.findall(text))
            held = {words[start:start + size] for size in range(2, SHORT_WORDS + 1)
                    for start in range(1, len(words) - size + 1)}
            self._times.update(phrase for phrase in held if phrase in self._times and phrase != own)

    def holds(self, title: str) -> bool:
        """Whether a text that holds the title names the item."""
        plain, words = plain_title(title), _folded(title)
        if _WIDE.search(plain):
            return len(plain) >= _WIDE_CHARS
        if len(words) > SHORT_WORDS:
            return True
        return len(words) >= 2 and sum(map(_marked, _WORD.findall(plain))) >= 2 and self._times[words] < _SHARED


def leaked(text: str, titles: Sequence[str]) -> list[str]:
    """The titles that stand verbatim in a text, in whole or in a distinctive part; ``titles`` are distinctive ones."""
    words = _WORD.findall(text)
    exact, squeezed = f" {' '.join(words)} ", "".join(text.split())
    folded = exact.casefold()
    runs = set(_runs(words))
    return [title for title in titles if _stands(plain_title(title), exact, folded, squeezed, runs)]


def _stands(title: str, exact: str, folded: str, squeezed: str, runs: set[tuple[str, ...]]) -> bool:
    if _WIDE.search(title):
        return "".join(title.split()) in squeezed
    words = _WORD.findall(title)
    sought = f" {' '.join(words)} "
    if len(words) <= SHORT_WORDS:
        return bool(words) and sought in exact
    return sought.casefold() in folded or any(
        run in runs and sum(map(_marked, run)) >= _RUN_CAPITALS for run in _runs(words))


def _runs(words: list[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start:start + _RUN_WORDS]) for start in range(len(words) - _RUN_WORDS + 1))


def _rows(items: pa.Table) -> Iterator[tuple[str, str]]:
    for batch in items.to_batches():
        for title, text in zip(batch["title"].to_pylist(), batch["text"].to_pylist(), strict=True):
            if title:
                yield title, text


def _folded(title: str) -> tuple[str, ...]:
    return tuple(word.casefold() for word in _WORD.findall(plain_title(title)))


def _marked(word: str) -> bool:
    return word[0].isupper() or word[0].isdigit()
