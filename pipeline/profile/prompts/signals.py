"""An interaction's signal in words."""

from __future__ import annotations

import math
from collections.abc import Callable

from configs.errors import DataError, illegal
from pipeline.profile.prompts.config import (
    EventSignal,
    NoSignal,
    NumberSignal,
    RatingSignal,
    SignalConfig,
    WatchedSignal,
)

Wording = Callable[[float | None], str | None]


def wording(config: SignalConfig) -> Wording:
    """A function from a signal to its words; None where there is nothing to tell (no signal, or NaN).

    Raises, when called:
        DataError: a rating outside the scale that the config names.
    """
    def word(value: float | None) -> str | None:
        return None if value is None or math.isnan(value) else _worded(value, config)

    return word


def note(config: SignalConfig) -> str:
    """What the signal means, for the instructions; empty where none is told."""
    match config:
        case RatingSignal():
            return (f"Where a rating stands, it runs from {config.worst:g} (disliked) to {config.best:g} (loved); low "
                    "ratings show dislikes.")
        case WatchedSignal():
            return "What was watched nearly to the end was liked; what was soon left was not."
        case EventSignal():
            return f"What was done with each is told: {', '.join(config.names.values())}."
        case NumberSignal():
            return f"Where a {config.name} stands: the higher, the better liked; a low one shows a dislike."
        case NoSignal():
            return ""


def _worded(value: float, config: SignalConfig) -> str | None:
    match config:
        case RatingSignal():
            if not config.worst <= value <= config.best:
                raise DataError(illegal("rating", value, f"{config.worst:g} to {config.best:g}",
                                        "set prompt.signal to the scale of the data, or to {kind: number}"))
            return f"rated {value:g} of {config.best:g}"
        case WatchedSignal():
            return f"watched {min(max(value / config.full, 0), 1):.0%}"
        case EventSignal():
            return config.names.get(round(value))
        case NumberSignal():
            return f"{config.name} {round(value, 2):.15g}"
        case NoSignal():
            return None
