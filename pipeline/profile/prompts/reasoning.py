"""A model's reasoning, which some put before their answer between tags: it is no part of the profile."""

from __future__ import annotations

import re

_NAMES = r"(?:seed:)?(?:think|thinking|thought|thoughts|reasoning|reflection)"
_OPEN, _CLOSE = rf"[<\[]{_NAMES}[>\]]", rf"[<\[]/{_NAMES}[>\]]"
_BLOCK = re.compile(rf"{_OPEN}(?:(?!{_OPEN}).)*?{_CLOSE}", re.DOTALL | re.IGNORECASE)
_ENDED = re.compile(rf".*{_CLOSE}", re.DOTALL | re.IGNORECASE)
_BEGUN = re.compile(rf"{_OPEN}.*", re.DOTALL | re.IGNORECASE)


def tagged(reasoning: str, answer: str) -> str:
    """Both in one text, as a model writes them whose server does not part them."""
    return f"<think>\n{reasoning}\n</think>\n{answer}"


def without_reasoning(text: str) -> tuple[str, bool]:
    """The answer alone, and whether there was any reasoning.

    An opening tag may lack, for some chat templates write it themselves, and the closing one, where the token limit
    fell into the reasoning.
    """
    answer = text
    while (shorter := _BLOCK.sub("", answer)) != answer:  # from the inside, where blocks hold others
        answer = shorter
    answer = _BEGUN.sub("", _ENDED.sub("", answer))
    return answer, answer != text
