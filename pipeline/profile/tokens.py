"""Item text → plain lower-case words. Item text is data: markup, numbers and chat-template tokens fall away."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

MIN_LETTERS = 3
MAX_LETTERS = 24

_SEGMENT = re.compile(r"<[^<>\s]{0,40}>|[^\w\s'’&-]+")
"""What ends a phrase: tags such as ``<start_of_turn>`` and punctuation."""
_SCRIPT_RUN = re.compile(r"[ァ-ヺー]+|[一-鿿々]+|[ぁ-ゟ]+|[가-힣]+")
_IDEOGRAPH = re.compile(r"[ァ-ヺ一-鿿가-힣]")

_STOP_WORDS = """
a about after again all also although am an and any are as at be because been before being both but by can could did do
does doing down each few for from further get had has have having he her here hers him his how if in into is it its
itself just let made make makes more most much my new no nor not now of off on once only or other our ours out over own
per perfect please same she should so some such than that the their theirs them then there these they this those through
to too under until up use used using very was we were what when where which while who whom why will with within without
would you your yours
und der die das den dem des ein eine einer mit für von aus auf ist oder nicht zum zur bei auch
les des une pour avec dans par sur est pas que qui aux vos votre
los las una para con por del que sin como más
pack piece pieces pcs count size inch inches ounce ounces gram grams set free item items product products brand
description category categories
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Function words of the common languages and words of packaging."""


def segments(text: str) -> Iterator[list[str]]:
    """Stretches of words between punctuation, words in lower case, nothing filtered yet."""
    text = unicodedata.normalize("NFKC", text).lower()
    if not text.isascii() and _IDEOGRAPH.search(text):
        text = _SCRIPT_RUN.sub(r" \g<0> ", text)
    for stretch in _SEGMENT.split(text):
        words = stretch.replace("’", "'").split()
        if words:
            yield words


def clean(word: str) -> str | None:
    """The word as a term, or None when it tells nothing: numbers, stop words, too short or too long."""
    word = word.strip("'-&_").removesuffix("'s")
    bare = word.replace("-", "").replace("'", "")
    short = 2 if _IDEOGRAPH.search(word) else MIN_LETTERS
    if not bare.isalpha() or not short <= len(word) <= MAX_LETTERS or word in STOP_WORDS:
        return None
    return word


def label(text: str, limit: int = 40) -> str:
    """A category or attribute value as it is told: one line, lower case, letters and digits only, cut at ``limit``."""
    text = unicodedata.normalize("NFKC", text).lower()
    words = re.sub(r"<[^<>\s]{0,40}>|[^\w\s'&-]+|_", " ", text).split()
    return " ".join(words)[:limit].strip()
