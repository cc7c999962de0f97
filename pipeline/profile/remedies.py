"""Too many profiles are rejected: what helps depends on the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

_SHOWN = 5
_SHOWN_CHARS = 200
NO_ANSWER = "no answer"
"""Begins the reason of a profile whose request the engine or server did not answer."""
_REMEDIES = (
    (("no item text", "empty text"), "give the items text in prepare.source"),
    (("no interaction", "no training history"), "take angles that find something in the histories (profile.angles)"),
    ((NO_ANSWER,), "see what the server or engine says, mend it and run again: what was answered is kept"),
    (("cut off", "only reasoning"), "raise profile.engine.sampling.max_tokens, or take a model that reasons less"),
    (("one item alone",), "raise profile.engine.max_model_len, or tell less of an item (profile.engine.prompt)"),
)
_OTHERWISE = "see profile.engine.gate and profile.engine.prompt, or take another model"
"""What the gate refuses."""


def rejected(reasons: Mapping[str, int]) -> str:
    """``reason: count, …``, the commonest first; long and rare ones are shortened."""
    ordered = Counter(reasons).most_common()
    shown = [f"{reason[:_SHOWN_CHARS]}: {count:,}" for reason, count in ordered[:_SHOWN]]
    more = len(ordered) - len(shown)
    return ", ".join(shown) + (f", and {more:,} other reasons" if more else "")


def unanswered(reasons: Mapping[str, int]) -> dict[str, int]:
    """Those of profiles whose requests were not answered."""
    return {reason: count for reason, count in reasons.items() if reason.startswith(NO_ANSWER)}


def remedy(reasons: Mapping[str, int]) -> str:
    """What helps against the commonest kind of reason."""
    kinds: Counter[str] = Counter()
    for reason, count in reasons.items():
        kinds[next((helps for starts, helps in _REMEDIES if reason.startswith(starts)), _OTHERWISE)] += count
    return kinds.most_common(1)[0][0]
