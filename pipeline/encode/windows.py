"""Cutting a text that is longer than the encoder's limit into windows of tokens."""

from __future__ import annotations

from collections.abc import Sequence


def windows(words: Sequence[int | None], limit: int) -> list[tuple[int, int]]:
    """Consecutive token ranges [start, end) of at most ``limit`` tokens that together hold every token once.

    A range ends where a word ends; only a word longer than ``limit`` is cut.

    Args:
        words: number of the word that each token belongs to.
        limit: at least 1.
    """
    if limit < 1:
        raise ValueError(f"limit: got {limit}, needs at least 1")
    ranges = []
    start = 0
    while start < len(words):
        end = min(start + limit, len(words))
        if end < len(words) and words[end] == words[end - 1]:
            word_start = end - 1
            while word_start > start and words[word_start - 1] == words[end]:
                word_start -= 1
            end = word_start if word_start > start else end
        ranges.append((start, end))
        start = end
    return ranges
