"""What is audited, block by block of users: own profiles, other users' profiles, the history's texts, popularity.

Legend: B users of a block, V items 1…n, E encoder width, A angles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.scoring import Scorer
from models.sequences import Cases, Sequences
from pipeline.evaluate.baselines import Popularity
from pipeline.evaluate.histories import weighted_histories
from pipeline.reduce.neighbors import unit_rows
from pipeline.reduce.vectors import VectorTable
from pipeline.work.ascending import places
from pipeline.work.shuffle import derangement

PROFILE, SHUFFLED, HISTORY, POPULARITY, CHANCE = "profile", "shuffled", "history", "popularity", "chance"
_LAST = -2.0
"""Score of an item without text: below every cosine."""


@dataclass(frozen=True)
class ItemTexts:
    """The catalogue's text vectors."""

    vectors_VE: np.ndarray
    """fp32, of length 1; zeros where an item has no text."""
    described_V: np.ndarray
    """bool: has a text."""

    @classmethod
    def read(cls, table: VectorTable, num_items: int) -> ItemTexts:
        """From the vectors of `encode/items`."""
        found = unit_rows(table.gather(np.arange(len(table))))
        vectors_VE, described_V = np.zeros((num_items, found.shape[1]), np.float32), np.zeros(num_items, bool)
        vectors_VE[table.owners_N - 1], described_V[table.owners_N - 1] = found, True
        return cls(vectors_VE, described_V)

    def with_text(self, histories: Sequences) -> np.ndarray:
        """bool [B]: which histories hold an item with text."""
        weights_BV = weighted_histories(histories, np.arange(len(histories)), 0.0, len(self.described_V))
        found: np.ndarray = (weights_BV @ self.described_V.astype(np.float32)) > 0
        return found

    def means(self, histories: Sequences) -> np.ndarray:
        """fp32 [B, E]: the mean of each history's distinct items that have a text."""
        weights_BV = weighted_histories(histories, np.arange(len(histories)), 0.0, len(self.described_V))
        return np.asarray(weights_BV @ self.vectors_VE, np.float32)


@dataclass(frozen=True)
class Cosine:
    """Ranks items by the cosine of their text with one vector per case; items without text come last."""

    users_BE: Tensor
    items_VE: Tensor
    textless_V: Tensor

    @property
    def num_items(self) -> int:
        return len(self.items_VE)

    def states(self, histories: Sequences, indices: np.ndarray) -> Tensor:
        """The cases' own vectors; their histories say nothing here."""
        return self.users_BE[torch.from_numpy(indices)]

    def scores(self, states: Tensor, start: int, stop: int) -> Tensor:
        """fp32 [B, stop - start]."""
        scores_BC = states @ self.items_VE[start - 1 : stop - 1].T
        return scores_BC.masked_fill_(self.textless_V[start - 1 : stop - 1], _LAST)


@dataclass(frozen=True)
class AuditInputs:
    """What the scorers of an audit are made of."""

    profiles: VectorTable
    items: ItemTexts
    counts_V: np.ndarray
    """Training interactions of item 1, 2, …."""

    def names(self) -> list[str]:
        """Of the subjects, in the order of :meth:`scorers`."""
        angles = self.profiles.angles
        own = [PROFILE] if len(angles) == 1 else [PROFILE, *(f"{PROFILE}/{angle}" for angle in angles)]
        return [*own, SHUFFLED, HISTORY, POPULARITY]

    def profiled(self, users: np.ndarray) -> np.ndarray:
        """bool: which users have a profile of every angle."""
        return self._rows(users).min(axis=1) >= 0

    def scorers(self, cases: Cases, rng: np.random.Generator) -> Iterator[Scorer]:
        """One per subject, for cases whose users are all profiled; of several angles their mean stands for the user.

        Args:
            rng: of the shuffle: everyone gets the profile of another user of the block.
        """
        by_angle = [unit_rows(self.profiles.gather(rows)) for rows in self._rows(cases.users).T]
        own_BE = np.mean(by_angle, axis=0)
        yield self._cosine(own_BE)
        if len(by_angle) > 1:
            yield from map(self._cosine, by_angle)
        yield self._cosine(own_BE[derangement(len(own_BE), rng)])
        yield self._cosine(self.items.means(cases.histories))
        yield Popularity(self.counts_V.astype(np.float32))

    def _rows(self, users: np.ndarray) -> np.ndarray:
        """int64 [len(users), A]: rows of the table; -1 where there is no vector."""
        angles = len(self.profiles.angles)
        known = self.profiles.owners_N * angles + self.profiles.angle_N
        wanted = users[:, None] * angles + np.arange(angles)
        return places(known, wanted)

    def _cosine(self, users_BE: np.ndarray) -> Cosine:
        return Cosine(torch.from_numpy(unit_rows(users_BE).astype(np.float32)),
                      torch.from_numpy(self.items.vectors_VE), torch.from_numpy(~self.items.described_V))
