"""Cutting a text that is longer than the encoder's limit into windows of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def windows(words: Sequence[int | None], limit: int, excess: Callable[[int, int], int] | None = None
            ) -> list[tuple[int, int]]:
    """Consecutive token ranges [start, end) of at most ``limit`` tokens that together hold every token once.

    A range ends where a word ends; only a word longer than ``limit`` is cut.

    Args:
        words: number of the word that each token belongs to.
        limit: at least 1.
        excess: of a range: by how many tokens its text, read by itself, is too long (a part of a word may have more
            tokens than it had within the word); None: by none.
    """
    if limit < 1:
        raise ValueError(f"limit: got {limit}, needs at least 1")
    ranges = []
    start = 0
    while start < len(words):
        size = limit
        end = _word_end(words, start, size)
        while excess is not None and end - start > 1 and (over := excess(start, end)) > 0:
            size = max(1, end - start - over)
            end = _word_end(words, start, size)
        ranges.append((start, end))
        start = end
    return ranges


def _word_end(words: Sequence[int | None], start: int, size: int) -> int:
    """The last end of a word within ``size`` tokens from ``start``; where there is none, ``size`` tokens on."""
    end = min(start + size, len(words))
    if end == len(words) or words[end] != words[end - 1]:
        return end
    word_start = end - 1
    while word_start > start and words[word_start - 1] == words[end]:
        word_start -= 1
    return word_start if word_start > start else end
