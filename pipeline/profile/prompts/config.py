"""Settings of the prompts and of the quality gate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from configs.base import Config
from pipeline.profile.prompts.languages import LANGUAGES

Domain = Literal["beauty", "movies", "vod", "sessions", "generic"]
Form = Literal["long", "short"]
Style = Literal["full", "compact"]
Cap = Annotated[int, Field(ge=1, le=10_000)]


class RatingSignal(Config):
    """The signal is a rating: ``rated 4 of 5``."""

    kind: Literal["rating"] = "rating"
    worst: float = 1
    best: float = 5

    @model_validator(mode="after")
    def _ordered(self) -> RatingSignal:
        if self.worst >= self.best:
            raise ValueError(f"worst={self.worst:g} must be below best={self.best:g}")
        return self


class WatchedSignal(Config):
    """The signal is how much was watched: ``watched 85 %``."""

    kind: Literal["watched"] = "watched"
    full: float = Field(default=100, gt=0)
    """Value of a whole watch: 100 for per cent, 1 for a share. More is told as 100 %."""


class EventSignal(Config):
    """The signal is the number of an event type: ``added to basket``."""

    kind: Literal["events"] = "events"
    names: dict[int, str] = Field(min_length=1)
    """Number → wording. Other numbers tell nothing."""


class NumberSignal(Config):
    """The signal is a number on a scale nobody told us of; more means more liked: ``score 17``."""

    kind: Literal["number"] = "number"
    name: str = Field(default="score", min_length=1, max_length=40)


class NoSignal(Config):
    """Nothing is told of the signal."""

    kind: Literal["none"] = "none"


SignalConfig = Annotated[RatingSignal | WatchedSignal | EventSignal | NumberSignal | NoSignal,
                         Field(discriminator="kind")]


class PromptConfig(Config):
    """What an LLM is told of a user, and what it is asked to write."""

    domain: Domain = "generic"
    """Chooses the templates ``configs/prompts/<domain>/{long,short}.jinja``, and the defaults of `fields` and
    `signal`."""
    style: Style = "full"
    """full: as published; compact: fewer and plainer instructions, for models below about 3 billion parameters."""
    templates: str | None = None
    """Templates of your own: a folder with `long.jinja` or `short.jinja`, or one such file; environment variables and
    ``~`` are expanded. None: the shipped ones."""
    language: str = "en"
    """ISO 639-1 code of the language profiles are written in."""
    max_words: int = Field(default=350, ge=30, le=700)
    """Asked for in the `long` form. The sampling's token limit cuts what is longer."""
    fields: dict[str, Cap] | None = None
    """Item fields that are told, in this order → most characters of each. None: the domain's own; an empty mapping:
    the title alone."""
    signal: SignalConfig | None = None
    """How an interaction's own signal is told. None: the domain's own."""
    title_chars: Cap = 120
    line_chars: int = Field(default=400, ge=40, le=10_000)
    """Most characters of an item's title and fields together; fields that no longer fit are left out."""
    attributes: tuple[str, ...] = ()
    """User attributes that are told, such as `age`. None by default."""
    attribute_chars: Cap = 60
    reviews: bool = False
    """Tell the user's own review of an item, where `prepare` kept it (`prepare.source.review_text`)."""
    review_chars: Cap = 200

    @field_validator("language")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in LANGUAGES:
            raise ValueError(f"legal: {', '.join(LANGUAGES)}")
        return value


class GateConfig(Config):
    """What a written profile must be, and how often a bad one is asked for again."""

    enabled: bool = True
    """False: every text passes that is not empty and, in the `short` form, is of the schema."""
    retries: int = Field(default=2, ge=0, le=20)
    """Further requests, each with another seed, after a text that does not pass; then the profile is rejected."""
    min_words: int | None = Field(default=None, ge=1)
    """Shorter texts are refused; in scripts without spaces two characters count as a word. None: 30 for `long`, 10
    for `short`."""
    max_repeated: float = Field(default=0.5, gt=0, le=1)
    """Largest share of word sequences that may be repetitions, in the whole text and in its last part; 1: off."""
    language: bool = True
    """Refuse texts in another language than `prompt.language`. Needs the package `py3langid`."""
    language_confidence: float = Field(default=0.9, gt=0, lt=1)
    """A text counts as of another language only when the detector is that sure of it."""
    max_leaked_titles: int | None = Field(default=0, ge=0)
    """More of the user's item titles than this, verbatim in the text, refuse it; None: not looked for."""
