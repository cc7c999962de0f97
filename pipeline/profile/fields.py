"""What an item's text fields are good for: words to be told, categories, attributes, price, year."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum

from pipeline.profile.tokens import label

PRICES = frozenset({"price"})
YEARS = frozenset({"year", "release_year", "release_date", "date"})
CATEGORIES = frozenset({"category", "categories", "genre", "genres", "content_type", "main_category", "main_cat"})
MARKETS = frozenset({"locale", "currency"})
"""Prices are compared among items of one market."""
TITLES = frozenset({"title", "title_orig", "name"})
PROSE = frozenset({"description", "desc", "text", "tags", "keywords", "plot", "overview", "summary", "features"})
IGNORED = frozenset({"asin", "id", "item_id", "url", "image", "imurl", "imageurl"})

_SPLIT = re.compile(r"[|;,>\[\]\"]+|(?<!\w)'|'(?!\w)")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
_YEAR = re.compile(r"(?<!\d)(1[89]\d\d|20\d\d)(?!\d)")
_TITLE_YEAR = re.compile(r"\((1[89]\d\d|20\d\d)\)\s*$")
_ATTRIBUTE_WORDS = 3.0
"""Values of an attribute are short: so many words on average at most."""
_ATTRIBUTE_SHARED = 0.5
"""Values of an attribute recur: at most so many distinct values per value."""


class Role(Enum):
    """What a field is used as."""

    PROSE = "prose"
    CATEGORY = "category"
    ATTRIBUTE = "attribute"
    PRICE = "price"
    YEAR = "year"
    MARKET = "market"
    UNUSED = "unused"


def roles(sample: Iterable[Mapping[str, str | None]]) -> dict[str, Role]:
    """The role of every field of a catalogue: known names first, else short, recurring values make an attribute."""
    values: dict[str, Counter[str]] = {}
    for fields in sample:
        for name, value in fields.items():
            values.setdefault(name, Counter()).update(parts(value))
    return {name: _role(name.lower(), counts) for name, counts in values.items()}


def _role(name: str, counts: Counter[str]) -> Role:
    for names, role in ((PRICES, Role.PRICE), (YEARS, Role.YEAR), (CATEGORIES, Role.CATEGORY), (MARKETS, Role.MARKET),
                        (PROSE, Role.PROSE), (TITLES | IGNORED, Role.UNUSED)):
        if name in names:
            return role
    total = sum(counts.values())
    if total == 0:
        return Role.UNUSED
    words = sum(len(value.split()) * count for value, count in counts.items()) / total
    return Role.ATTRIBUTE if words <= _ATTRIBUTE_WORDS and len(counts) <= _ATTRIBUTE_SHARED * total else Role.PROSE


def parts(value: str | None) -> list[str]:
    """The single values of a field that may hold several, cleaned: ``Adventure|Animation`` → adventure, animation."""
    found = (label(part) for part in _SPLIT.split(value or ""))
    return [part for part in found if any(map(str.isalpha, part))]


def field_noun(name: str) -> str:
    """A field's name as told before a value: ``studios`` → studio, ``countries`` → country."""
    noun = label(name)
    if noun.endswith("ies"):
        return noun[:-3] + "y"
    return noun[:-1] if noun.endswith("s") and not noun.endswith("ss") else noun


def price(value: str | None) -> float | None:
    """The first number of a price text."""
    match = _NUMBER.search((value or "").replace(",", ""))
    return float(match.group()) if match else None


def decade(value: str | None, title: str | None) -> str | None:
    """``1990s`` from a year field, else from a year in brackets at a title's end."""
    match = _YEAR.search(value or "") or _TITLE_YEAR.search(title or "")
    return f"{match.group(1)[:3]}0s" if match else None
