"""What generated items say about themselves: title, category, brand, price and description.

Where an item's taste is not told, a filler stands that all items share, in four variants. Random words would not do:
they are a fingerprint of the item, so a profile made of them is a fingerprint of the history, and a student would
learn from it which users and items go together although no text says anything.

Legend: T tastes, N items of a block, W words per item.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.prepare.config import SyntheticSource
from pipeline.prepare.synthetic_catalogue import Catalogue, Stream, random
from pipeline.prepare.synthetic_words import FILLER, SYLLABLES, THEMES, VARIANTS

_BLOCK_ITEMS = 16_384
_BRANDS = 4
"""Brands per taste."""
_TITLE_WORDS = 4
_GLUE = (" ", ", ", " and ", ". Made for ", " ", ", ", ". With ", " ", ", ", " and ", " ")
"""What stands between the words of a description; says nothing about the item."""
_STRIDES = np.array([1, 5, 7, 11])
_WORDS = _TITLE_WORDS + len(_GLUE) + 1
_NO_CATEGORY, _NO_BRAND, _NO_CENTS = "General", "Unbranded", 1999

INDEX = "index"
BRAND = "brand"
PRICE = "price"
DESCRIPTION = "description"


def vocabulary(tastes: int) -> list[tuple[str, tuple[str, ...]]]:
    """Category and own words of each taste; beyond the embedded themes, halves of two of them."""
    result = []
    for taste in range(tastes):
        shift, base = divmod(taste, len(THEMES))
        (name, words), (other, others) = THEMES[base], THEMES[(base + shift) % len(THEMES)]
        half = len(words) // 2
        result.append((name, words) if shift == 0 else (f"{name} & {other}", words[:half] + others[half:]))
    return result


def brand_names(count: int) -> list[str]:
    """Distinct invented names of three syllables; neighbours do not look alike."""
    base, names = len(SYLLABLES), []
    for index in range(count):
        code = index * 7919 % base**3
        name = SYLLABLES[code % base] + SYLLABLES[code // base % base] + SYLLABLES[code // base**2]
        names.append(name.capitalize())
    return names


def text_blocks(config: SyntheticSource, items: Catalogue) -> Iterator[pa.Table]:
    """Tables of INDEX int32 (0…I-1), title, category, brand, price (with two decimals) and description, all strings.

    Each word, and likewise the brand, the category and the price, is the taste's (the item's) own with probability
    ``text_signal``, else the filler's.
    """
    tastes = vocabulary(items.num_tastes)
    own = len(tastes[0][1])
    words = pa.array([word for _, theme in tastes for word in theme] + list(FILLER + VARIANTS))
    filler_W = len(tastes) * own + np.arange(_WORDS)
    categories = pa.array([name for name, _ in tastes] + [_NO_CATEGORY])
    brands = pa.array(brand_names(_BRANDS * len(tastes)) + [_NO_BRAND])
    for number, first in enumerate(range(0, config.items, _BLOCK_ITEMS)):
        index_N = np.arange(first, min(first + _BLOCK_ITEMS, config.items), dtype=np.int32)
        taste_N, count = items.taste_I[index_N], len(index_N)
        rng = random(config.seed, Stream.TEXTS, number)
        told_NW = rng.random((count, _WORDS)) < config.text_signal
        # A stride coprime to 12 walks through the taste's words without repeating one too soon.
        place_NW = _choice(rng, (count, 1), own) + np.arange(_WORDS) * _STRIDES[_choice(rng, (count, 1), len(_STRIDES))]
        word_NW = np.where(told_NW, taste_N[:, None] * own + place_NW % own, filler_W)
        variant_N = filler_W[-1] + 1 + _choice(rng, (count,), len(VARIANTS))
        word_NW[:, 0] = np.where(told_NW[:, 0], word_NW[:, 0], variant_N)
        told_3N = rng.random((3, count)) < config.text_signal
        brand_N = np.where(told_3N[1], taste_N * _BRANDS + _choice(rng, (count,), _BRANDS), len(brands) - 1)
        cents_N = np.where(told_3N[2], np.rint(399 + 9600 * items.price_I[index_N] ** 2).astype(np.int64), _NO_CENTS)
        brand = brands.take(pa.array(brand_N))
        columns = [words.take(pa.array(word_NW[:, place])) for place in range(_WORDS)]
        yield pa.table({
            INDEX: index_N,
            "title": pc.binary_join_element_wise(brand, *columns[:_TITLE_WORDS], " "),
            "category": categories.take(pa.array(np.where(told_3N[0], taste_N, len(tastes)))),
            BRAND: brand,
            PRICE: pa.array([f"{cents // 100}.{cents % 100:02d}" for cents in cents_N.tolist()]),
            DESCRIPTION: _sentences(columns[_TITLE_WORDS:]),
        })


def _sentences(columns: list[pa.Array]) -> pa.Array:
    parts = [pc.utf8_capitalize(columns[0])]
    for glue, column in zip(_GLUE, columns[1:], strict=True):
        parts += [pa.scalar(glue), column]
    return pc.binary_join_element_wise(*parts, pa.scalar("."), "")


def _choice(rng: np.random.Generator, shape: tuple[int, ...], count: int) -> np.ndarray:
    """Uniform integers 0…count-1, from uniform numbers so that every NumPy draws the same."""
    return (rng.random(shape) * count).astype(np.int64)
