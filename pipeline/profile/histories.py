"""Training histories of a batch of users as flat arrays, and the parts of them that the angles look at.

Legend: N users, M interactions (flat).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from configs.errors import ArtifactError
from models.ragged import offsets_of
from pipeline.profile.config import Angle
from pipeline.store.arrow import row_lengths
from pipeline.store.columns import ITEMS, SIGNALS, USER_IDX

RECENT_SHARE = 3
"""The recent angle is the latest 1/3 of a history, rounded up."""


@dataclass(frozen=True)
class Histories:
    """Users' training interactions in time order."""

    users_N: np.ndarray
    """int64 user indices."""
    offsets_N1: np.ndarray
    """int64 [N + 1]: user u's interactions are offsets[u]…offsets[u + 1]."""
    items_M: np.ndarray
    """int32 item indices, 1…n."""
    signals_M: np.ndarray
    """float32; NaN where the interaction has no signal."""

    @classmethod
    def from_table(cls, table: pa.Table) -> Histories:
        """Rows of ``histories/*.parquet``; a null list counts as empty.

        Raises:
            ArtifactError: items and signals of a user do not go together.
        """
        items, signals = table[ITEMS].combine_chunks(), table[SIGNALS].combine_chunks()
        lengths_N = row_lengths(items)
        if not np.array_equal(lengths_N, row_lengths(signals)):
            raise ArtifactError(f"histories: {ITEMS} and {SIGNALS} differ in length; run prepare again")
        return cls(table[USER_IDX].to_numpy(), offsets_of(lengths_N), items.flatten().to_numpy().astype(np.int32),
                   signals.flatten().to_numpy(zero_copy_only=False).astype(np.float32))

    def __len__(self) -> int:
        return len(self.users_N)

    @property
    def lengths_N(self) -> np.ndarray:
        return np.diff(self.offsets_N1)

    @property
    def owner_M(self) -> np.ndarray:
        """Row (0…N-1) of the user each interaction belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths_N)

    @property
    def place_M(self) -> np.ndarray:
        """Place of each interaction in its history, from 0."""
        start_M: np.ndarray = np.repeat(self.offsets_N1[:-1], self.lengths_N)
        return np.arange(len(self.items_M)) - start_M

    def keep(self, mask_M: np.ndarray) -> Histories:
        """The same users with only the marked interactions."""
        lengths = np.bincount(self.owner_M[mask_M], minlength=len(self))
        return Histories(self.users_N, offsets_of(lengths), self.items_M[mask_M], self.signals_M[mask_M])

    def take(self, mask_N: np.ndarray) -> Histories:
        """Only the marked users."""
        mask_M = np.repeat(mask_N, self.lengths_N)
        return Histories(self.users_N[mask_N], offsets_of(self.lengths_N[mask_N]), self.items_M[mask_M],
                         self.signals_M[mask_M])

    def last(self, count_N: np.ndarray | int) -> Histories:
        """The latest ``count`` interactions of each user."""
        start = np.repeat(np.maximum(self.lengths_N - count_N, 0), self.lengths_N)
        return self.keep(self.place_M >= start)

    def angle(self, angle: Angle) -> Histories:
        """What an angle looks at; a user whose interactions have no signal has no favourites."""
        if angle == "overall":
            return self
        if angle == "recent":
            return self.last(-(-self.lengths_N // RECENT_SHARE))
        best_N = np.full(len(self), -np.inf, np.float32)
        known_M = ~np.isnan(self.signals_M)
        np.maximum.at(best_N, self.owner_M[known_M], self.signals_M[known_M])
        return self.keep(known_M & (self.signals_M == best_N[self.owner_M]))

