"""What is known of a user → English text, in ``long`` (five short paragraphs) or ``short`` (fixed fields) form.

Telling words come first in every sentence, and no sentence holds a rating or an item's title.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.profile.config import Angle

Focus = Literal["focused", "mixed", "wide-ranging"]
Repeats = Literal["never", "sometimes", "often"]

_FAVOURS: dict[Angle, str] = {
    "overall": "this is what the person favours",
    "recent": "this is what the person favours now",
    "favourites": "this is what the person loves most",
}
PRICE_LEVELS = ("inexpensive", "moderately priced", "rather expensive", "expensive")


@dataclass(frozen=True)
class Facts:
    """One user's tastes, each list best first. Empty means unknown."""

    favoured: Sequence[str]
    """Words and phrases of what the user chooses."""
    liked: Sequence[str]
    """Words that mark the liked items off from the disliked ones; without signals, what several items share."""
    disliked: Sequence[str]
    recent: Sequence[str]
    """Words of the latest third that the time before lacks."""
    earlier: Sequence[str]
    details: Sequence[str]
    """Further words of what the user chooses."""
    categories: Sequence[str]
    disliked_categories: Sequence[str]
    attributes: Sequence[str]
    decades: Sequence[str]
    price_level: str | None
    focus: Focus
    repeats: Repeats
    rated: bool
    """Whether liked and disliked come from the user's own signals."""


def render(facts: Facts, form: Literal["long", "short"], angle: Angle) -> str:
    """The profile text."""
    return "\n".join(_long(facts, angle) if form == "long" else _short(facts))


def _long(facts: Facts, angle: Angle) -> list[str]:
    return [_favours(facts, angle), _attributes(facts), _liked(facts), _disliked(facts), _summary(facts)]


def _favours(facts: Facts, angle: Angle) -> str:
    told = [", ".join(facts.favoured)] if facts.favoured else []
    if facts.categories:
        told.append(f"mostly {_and(facts.categories)}")
    if facts.decades:
        told.append(f"largely of the {_and(facts.decades)}")
    return _sentence(f"{'; '.join(told)}: {_FAVOURS[angle]}") if told else "Favours nothing in particular."


def _attributes(facts: Facts) -> str:
    told = [", ".join(values) for values in (facts.attributes, facts.details) if values]
    told += [facts.price_level] if facts.price_level else []
    return _sentence(f"{'; '.join(told)}: typical attributes") if told else "No attribute stands out."


def _liked(facts: Facts) -> str:
    if not facts.liked:
        return "The liked things share nothing more."
    what = "what the liked things share" if facts.rated else "what several choices share"
    return _sentence(f"{_and(facts.liked)}: {what}")


def _disliked(facts: Facts) -> str:
    told = [*facts.disliked, *facts.disliked_categories]
    if not told:
        return "The less liked things share nothing." if facts.rated else "No dislikes are known."
    return _sentence(f"{_and(told)}: what the less liked things share")


def _summary(facts: Facts) -> str:
    core = [*facts.favoured[:3], *facts.categories[:1]]
    told = [f"{', '.join(core)}: a {facts.focus} taste" if core else f"a {facts.focus} taste"]
    return _sentence("; ".join(told + _over_time(facts)))


def _over_time(facts: Facts) -> list[str]:
    told = []
    if facts.recent:
        told.append(f"lately {', '.join(facts.recent)}")
    if facts.earlier:
        told.append(f"before that {', '.join(facts.earlier)}")
    if facts.repeats != "never":
        told.append(f"{facts.repeats} comes back to the same things")
    return told


def _short(facts: Facts) -> list[str]:
    return [
        f"Tastes: {_fields(facts.favoured, facts.categories)}",
        f"Attributes: {_fields(facts.attributes, facts.details, facts.liked)}",
        f"Price or era: {_fields([facts.price_level] if facts.price_level else [], facts.decades)}",
        f"Dislikes: {_fields(facts.disliked, facts.disliked_categories)}",
        f"Behaviour over time: {'; '.join([*_over_time(facts), facts.focus])}",
        f"Summary: {_fields(facts.favoured[:3], facts.categories[:1])}",
    ]


def _fields(*lists: Sequence[str]) -> str:
    return "; ".join(", ".join(values) for values in lists if values) or "unknown"


def _and(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} and {values[-1]}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
