"""What each domain tells of an item unless the config says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pipeline.profile.prompts.config import (
    Domain,
    NoSignal,
    NumberSignal,
    PromptConfig,
    RatingSignal,
    SignalConfig,
    WatchedSignal,
)


@dataclass(frozen=True)
class DomainDefaults:
    """Defaults of `fields` and `signal`."""

    fields: dict[str, int] | None
    """Field → most characters, as in ``PromptConfig``; those that a catalogue lacks are passed over. None: every
    field of the catalogue, in its order."""
    signal: SignalConfig


EVERY_FIELD_CHARS: Final = 120
"""Cap of a field where every field is told."""

DOMAINS: Final[dict[Domain, DomainDefaults]] = {
    "beauty": DomainDefaults({"categories": 120, "category": 80, "brand": 40, "price": 20, "description": 160},
                             RatingSignal()),
    "movies": DomainDefaults({"genres": 100, "year": 10, "tags": 160}, RatingSignal(worst=0.5)),
    "vod": DomainDefaults({"content_type": 20, "genres": 100, "release_year": 10, "countries": 60, "directors": 60,
                           "actors": 80, "age_rating": 10, "keywords": 120, "description": 160}, WatchedSignal()),
    "sessions": DomainDefaults({"brand": 40, "price": 20, "color": 30, "size": 30, "material": 40, "author": 60,
                                "desc": 160}, NoSignal()),
    "generic": DomainDefaults(None, NumberSignal()),
}


def signal_of(config: PromptConfig) -> SignalConfig:
    """The signal wording that is in force."""
    return config.signal or DOMAINS[config.domain].signal


def fields_of(config: PromptConfig) -> dict[str, int] | None:
    """The item fields that are in force; None: every field, ``EVERY_FIELD_CHARS`` each."""
    return DOMAINS[config.domain].fields if config.fields is None else config.fields
