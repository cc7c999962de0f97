"""The part of a prompt that holds the user's data: one line per entry, between tags that no clean line can hold."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.profile.prompts.cleaning import Cleaner

SEPARATOR = " | "
"""Between the parts of a line; no clean text holds ``|``."""


def fenced(name: str, lines: Iterable[str], cleaner: Cleaner, label: str = "") -> str:
    """``<name label>``, a line ``- …`` per entry, ``</name>``."""
    opening = f"<{name} {label}>" if label else f"<{name}>"
    return "\n".join([opening, *(f"- {_safe(line, cleaner)}" for line in lines), f"</{name}>"])


def fenced_text(name: str, text: str, cleaner: Cleaner, label: str = "") -> str:
    """``<name label>``, the text's paragraphs, ``</name>``."""
    opening = f"<{name} {label}>" if label else f"<{name}>"
    return "\n".join([opening, *cleaner.paragraphs(text), f"</{name}>"])


def part_label(part: tuple[int, int] | None) -> str:
    """``part="2 of 5"``; nothing where the history is whole."""
    return "" if part is None else f'part="{part[0]} of {part[1]}"'


def _safe(line: str, cleaner: Cleaner) -> str:
    """The line as it is where its parts are clean, whoever wrote it."""
    return SEPARATOR.join(map(cleaner.line, line.split(SEPARATOR)))
