"""An interaction's signal in words."""

from __future__ import annotations

import math
from collections.abc import Callable

from pipeline.profile.prompts.config import (
    EventSignal,
    NoSignal,
    RatingSignal,
    SignalConfig,
    WatchedSignal,
)

Wording = Callable[[float], str | None]


def wording(config: SignalConfig) -> Wording:
    """A function from a signal to its words; None where there is nothing to tell (no signal, or NaN)."""
    match config:
        case RatingSignal():
            return lambda value: None if math.isnan(value) else f"rated {value:g} of {config.best:g}"
        case WatchedSignal():
            return lambda value: None if math.isnan(value) else _watched(value / config.full)
        case EventSignal():
            return lambda value: None if math.isnan(value) else config.names.get(round(value))
        case NoSignal():
            return lambda value: None


def note(config: SignalConfig) -> str:
    """What the signal means, for the instructions; empty where none is told."""
    match config:
        case RatingSignal():
            return (f"A rating runs from {config.worst:g} (disliked) to {config.best:g} (loved); low ratings show "
                    "dislikes.")
        case WatchedSignal():
            return "What was watched nearly whole was liked; what was soon left was not."
        case EventSignal():
            return f"What was done with it is told: {', '.join(config.names.values())}."
        case NoSignal():
            return ""


def _watched(share: float) -> str:
    return f"watched {min(max(share, 0), 1):.0%}"
