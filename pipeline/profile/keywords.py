"""The keywords engine: a profile text from item metadata and the user's own signals. No language model, ever.

Every feature of a user's items (words, categories, attributes, decades) is weighed by how often the user met it and
how rare it is in the catalogue; what tells liked from disliked and recent from earlier items is the difference of the
feature's shares there. Integer counts and element-wise arithmetic only, so a user's text does not depend on who
shares the batch.

Legend: N users, M interactions, G (user, feature) groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.profile.config import Angle
from pipeline.profile.counts import Counts, count
from pipeline.profile.features import ItemFeatures, Kind
from pipeline.profile.histories import Histories
from pipeline.profile.wording import PRICE_LEVELS, Facts, Focus, Repeats, render
from pipeline.profile.writing import Draft

_NUM_CATEGORIES, _NUM_ATTRIBUTES, _NUM_DECADES = 3, 4, 2
_OFTEN = 0.2
"""Share of interactions with an item seen before that counts as often."""
_FOCUSED, _MIXED = 0.5, 0.25
"""Share of the interactions that the user's commonest word or category covers."""
_LOG_COUNTS = np.log1p(np.arange(4096))
"""log(1 + n) from a table: the same float in whatever vector lane."""
_KINDS = len(Kind)
_MAX_PAIRS = 2_000_000
"""(Interaction, feature) pairs worked on at once: some 200 MB."""


class KeywordsWriter:
    """Writes profiles from memory-mapped item features."""

    def __init__(self, folder: Path, max_terms: int, form: Literal["long", "short"],
                 liked_signal: float | None) -> None:
        """
        Args:
            folder: what ``catalogue.build`` wrote.
            max_terms: words and phrases per profile; categories, attributes and decades come on top.
            liked_signal: from this signal on an item is liked; None: from the user's mean on.
        """
        self._items = ItemFeatures.open(folder)
        self._weight_F = np.where(self._items.kind_F == Kind.DECADE, 1.0, self._items.weight_F)
        self._labels: dict[int, str] = {}
        self._form = form
        self._liked_signal = liked_signal
        self._max_terms = max_terms
        self._num_contrast, self._num_recent = max_terms // 6, max_terms // 12
        self._num_favoured = max_terms - 3 * self._num_contrast - 2 * self._num_recent

    def write(self, histories: Histories, angle: Angle) -> list[Draft]:
        """One profile per user, or the reason why there is none."""
        drafts: list[Draft] = []
        for users_N in self._portions(histories):
            drafts += self._write(histories.take(users_N), angle)
        return drafts

    def _portions(self, histories: Histories) -> list[np.ndarray]:
        """Masks of consecutive users whose features fit into memory together, however long their histories."""
        size_M = self._items.offsets_I[histories.items_M + 1] - self._items.offsets_I[histories.items_M]
        pairs_N = np.bincount(histories.owner_M, size_M, len(histories))
        portion_N = (np.cumsum(pairs_N) - pairs_N) // _MAX_PAIRS
        return [portion_N == portion for portion in np.unique(portion_N)]

    def _write(self, histories: Histories, angle: Angle) -> list[Draft]:
        c = count(histories, self._items, self._liked_signal)
        rankings = self._rankings(c)
        return [Draft(render(self._facts(user, c, rankings, histories), self._form, angle)) if c.told_N[user]
                else Draft(None, "no item text") for user in range(len(histories))]

    def _rankings(self, c: Counts) -> _Rankings:
        earlier_G, earlier_N = c.all_G - c.recent_G, np.where(c.recent_N > 0, c.lengths_N - c.recent_N, 0)
        neither_G = c.all_G - c.liked_G - c.disliked_G
        liking_G = _excess(c, c.liked_G, c.liked_N, c.disliked_G, c.disliked_N)
        disliking_G = _excess(c, c.disliked_G, c.disliked_N, c.liked_G, c.liked_N)
        return _Rankings(
            favoured=self._rank(c, np.maximum(2 * (c.liked_G + neither_G) - c.disliked_G, 0)),
            shared=self._rank(c, np.where(c.all_G > 1, c.all_G, 0)),
            liked=self._rank(c, c.liked_G, liking_G), disliked=self._rank(c, c.disliked_G, disliking_G),
            recent=self._rank(c, c.recent_G, _excess(c, c.recent_G, c.recent_N, earlier_G, earlier_N)),
            earlier=self._rank(c, earlier_G, _excess(c, earlier_G, earlier_N, c.recent_G, c.recent_N)))

    def _rank(self, c: Counts, count_G: np.ndarray, factor_G: np.ndarray | None = None) -> _Ranking:
        """Features of each user and kind by weight, best first; ties by label. Those of weight 0 are left out.

        Words count by log(1 + n), the rest by n: for them the share itself is what is told.
        """
        kind_G = self._items.kind_F[c.feature_G]
        amount_G = np.where(kind_G == Kind.TERM, _LOG_COUNTS[np.minimum(count_G, len(_LOG_COUNTS) - 1)], count_G)
        score_G = amount_G * self._weight_F[c.feature_G]
        if factor_G is not None:
            score_G = score_G * factor_G
        kept_G = score_G > 0
        place = c.user_G[kept_G] * _KINDS + kind_G[kept_G]
        order = np.lexsort((-score_G[kept_G], place))
        starts = np.searchsorted(place[order], np.arange(len(c.lengths_N) * _KINDS + 1))
        return _Ranking(c.feature_G[kept_G][order].tolist(), starts.tolist())

    def _facts(self, user: int, c: Counts, rankings: _Rankings, histories: Histories) -> Facts:
        items = histories.items_M[histories.offsets_N1[user]:histories.offsets_N1[user + 1]]
        used = {-1, *self._items.title_I[items].tolist()}
        rated = bool(c.liked_N[user] + c.disliked_N[user])

        def choose(ranking: _Ranking, kind: Kind, limit: int) -> list[str]:
            return self._choose(ranking.of(user, kind), limit, used)

        categories = choose(rankings.favoured, Kind.CATEGORY, _NUM_CATEGORIES)
        attributes = choose(rankings.favoured, Kind.ATTRIBUTE, _NUM_ATTRIBUTES)
        favoured = choose(rankings.favoured, Kind.TERM, self._num_favoured)
        liked = choose(rankings.liked if rated else rankings.shared, Kind.TERM, self._num_contrast)
        disliked = choose(rankings.disliked, Kind.TERM, self._num_contrast)
        recent = choose(rankings.recent, Kind.TERM, self._num_recent)
        earlier = choose(rankings.earlier, Kind.TERM, self._num_recent)
        told = sum(map(len, (favoured, liked, disliked, recent, earlier)))
        return Facts(
            favoured=favoured, liked=liked, disliked=disliked, recent=recent, earlier=earlier,
            details=choose(rankings.favoured, Kind.TERM, self._max_terms - told),
            categories=categories, attributes=attributes,
            disliked_categories=choose(rankings.disliked, Kind.CATEGORY, 1),
            decades=choose(rankings.favoured, Kind.DECADE, _NUM_DECADES),
            price_level=_price_level(c.price_N[user]), focus=_focus(c.top_share_N[user]),
            repeats=_repeats(c.repeat_share_N[user]), rated=rated)

    def _choose(self, ranked: list[int], limit: int, used: set[int]) -> list[str]:
        """The best features that add something: nothing told before, no word of a phrase told before."""
        chosen: list[str] = []
        for feature in ranked:
            if len(chosen) >= limit:
                break
            first, second = self._items.parts_F2[feature].tolist()
            if feature in used or (first >= 0 and first in used and second in used):
                continue
            used.update((feature, first, second))
            if feature not in self._labels:
                self._labels[feature] = self._items.labels[feature].as_py()
            chosen.append(self._labels[feature])
        return chosen


@dataclass(frozen=True)
class _Ranking:
    """Features by user and kind, best first."""

    features: list[int]
    starts: list[int]

    def of(self, user: int, kind: Kind) -> list[int]:
        place = user * _KINDS + kind
        return self.features[self.starts[place]:self.starts[place + 1]]


@dataclass(frozen=True)
class _Rankings:
    favoured: _Ranking
    shared: _Ranking
    """By how many items carry the feature, two at least."""
    liked: _Ranking
    disliked: _Ranking
    recent: _Ranking
    earlier: _Ranking


def _excess(c: Counts, here_G: np.ndarray, here_N: np.ndarray, there_G: np.ndarray, there_N: np.ndarray) -> np.ndarray:
    """How much commoner a feature is here than there: (p - q) / (p + q) of its shares p and q, 0 where it is not."""
    p_G = here_G / np.maximum(here_N, 1)[c.user_G]
    q_G = there_G / np.maximum(there_N, 1)[c.user_G]
    excess_G: np.ndarray = np.maximum(p_G - q_G, 0) / np.maximum(p_G + q_G, 1e-12)
    return excess_G


def _price_level(level: float) -> str | None:
    return None if math.isnan(level) else PRICE_LEVELS[min(int(level * len(PRICE_LEVELS)), len(PRICE_LEVELS) - 1)]


def _focus(top_share: float) -> Focus:
    return "focused" if top_share >= _FOCUSED else "mixed" if top_share >= _MIXED else "wide-ranging"


def _repeats(share: float) -> Repeats:
    return "often" if share >= _OFTEN else "sometimes" if share > 0 else "never"
