"""How a history is divided over prompts, and how the texts of the parts come together: pure arithmetic on spans."""

from __future__ import annotations

from collections.abc import Callable

Span = tuple[int, int]
"""From, up to but not with."""


def halve(count: int, fits: Callable[[Span], bool]) -> list[Span] | None:
    """Consecutive spans of 0…count that each fit, by halving what does not; None where a single one does not fit."""
    spans: list[Span] = []
    waiting = [(0, count)]
    while waiting:
        start, stop = waiting.pop()
        if fits((start, stop)):
            spans.append((start, stop))
        elif stop - start <= 1:
            return None
        else:
            middle = (start + stop + 1) // 2
            waiting += [(middle, stop), (start, middle)]
    return spans


def latest(count: int, fits: Callable[[Span], bool]) -> Span | None:
    """The longest span up to ``count`` that fits; None where not even the last one does."""
    if not fits((count - 1, count)):
        return None
    low, high = 0, count - 1  # the longest starts in low…high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits((middle, count)) else (middle + 1, high)
    return high, count


def groups(count: int, most: int) -> list[Span]:
    """0…count in the fewest consecutive groups of at most ``most``, sizes as equal as can be."""
    number = -(-count // most)
    edges = [round(place * count / number) for place in range(number + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def merge_sizes(count: int, most: int) -> list[int]:
    """How many texts each merge takes until one is left; a group of one needs none."""
    sizes: list[int] = []
    while count > 1:
        found = groups(count, most)
        sizes += [stop - start for start, stop in found if stop - start > 1]
        count = len(found)
    return sizes
