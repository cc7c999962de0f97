"""Which titles give an item away, and whether a text holds one.

A profile may say "cream" or "tea tree oil" though items are called that; it may not say "Toy Story". So a title tells
only when it is long enough, and when its words are not a phrase that other items' titles hold too. Long titles are
looked for in any spelling; short ones only in their own capital letters, which a text gives to names alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]")
_YEAR = re.compile(r"\s*\((?:1[89]|20)\d\d\)\s*$")
_ARTICLE = re.compile(r"^(.*), (The|A|An|Le|La|Les|L'|Il|El|Der|Die|Das)$")
SHORT_WORDS = 4
"""Titles of up to so many words must stand in their own capitals; a single word tells nothing."""
_SHARED = 3
"""A short title whose words stand together in so many other titles is a phrase."""
_WIDE_CHARS = 6
"""A title without spaces between words, such as a Japanese one, must have so many characters."""


def plain_title(title: str) -> str:
    """A title as a text would give it: ``Matrix, The (1999)`` → ``The Matrix``."""
    title = _YEAR.sub("", title)
    article = _ARTICLE.match(title)
    return f"{article.group(2)} {article.group(1)}" if article else title


class TellingTitles:
    """Decides for the titles of a catalogue."""

    def __init__(self, titles: Iterable[Sequence[str | None]]) -> None:
        """
        Args:
            titles: of all items, in pieces; gone through twice.
        """
        pieces = list(titles)
        self._short: Counter[tuple[str, ...]] = Counter()
        for title in _each(pieces):
            words = _folded(title)
            if 2 <= len(words) <= SHORT_WORDS:
                self._short[words] = 0
        for title in _each(pieces):
            words = _folded(title)
            for start in range(len(words)):
                for stop in range(start + 2, min(start + SHORT_WORDS, len(words)) + 1):
                    if words[start:stop] in self._short:
                        self._short[words[start:stop]] += 1

    def tells(self, title: str) -> bool:
        """Whether a text that holds the title names the item."""
        plain, words = plain_title(title), _folded(title)
        if _WIDE.search(plain):
            return len(plain) >= _WIDE_CHARS
        if len(words) > SHORT_WORDS:
            return True
        return len(words) >= 2 and _capitals(plain) >= 2 and self._short[words] <= _SHARED


def leaked(text: str, titles: Sequence[str]) -> list[str]:
    """The titles that stand verbatim in a text; ``titles`` are telling ones."""
    exact = " ".join(_WORD.findall(text))
    folded, exact, squeezed = f" {exact.casefold()} ", f" {exact} ", "".join(text.split())
    return [title for title in titles if _stands(plain_title(title), exact, folded, squeezed)]


def _stands(title: str, exact: str, folded: str, squeezed: str) -> bool:
    if _WIDE.search(title):
        return "".join(title.split()) in squeezed
    words = _WORD.findall(title)
    sought = " ".join(words)
    return bool(words) and (f" {sought} " in exact if len(words) <= SHORT_WORDS else f" {sought.casefold()} " in folded)


def _each(pieces: Iterable[Sequence[str | None]]) -> Iterable[str]:
    return (title for piece in pieces for title in piece if title)


def _folded(title: str) -> tuple[str, ...]:
    return tuple(word.casefold() for word in _WORD.findall(plain_title(title)))


def _capitals(title: str) -> int:
    return sum(word[0].isupper() or word[0].isdigit() for word in _WORD.findall(title))
