"""Training rows and the batches cut from them: memory-mapped arrays, nothing per sample in Python.

Legend: N training rows, B batch, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from configs.errors import DataError
from models.config import RankingLossConfig, counted_source
from models.protocols import SequenceEncoder
from models.sequences import Batch, Sequences, pieces
from pipeline.store.arrays import training_sequences
from pipeline.train.targets import Targets

_COUNTED_AT_ONCE = 2**22


@dataclass(frozen=True)
class TrainingRows:
    """The users that give the model something to predict."""

    users: np.ndarray
    """int64, internal user index of each of ``sequences``."""
    index_N: np.ndarray
    """int32, places in ``sequences``."""
    sequences: Sequences
    max_items: int
    """Most recent items of a row."""
    least: int = 2
    """Fewest items that hold a target: 1 where a lone item is one (a mask), else 2 (the next item)."""
    targets: Targets | None = None

    @classmethod
    def open(cls, path: Path, encoder: SequenceEncoder) -> TrainingRows:
        """Memory-map ``train.arrow``; rows too short to hold a target for this encoder are left out.

        Raises:
            DataError: no row is left.
        """
        users, sequences = training_sequences(path)
        least = shortest_row(encoder)
        index_N = np.concatenate([start + np.flatnonzero(np.diff(sequences.offsets[start : start + _COUNTED_AT_ONCE + 1]
                                                                 ) >= least).astype(np.int32)
                                  for start in range(0, max(len(sequences), 1), _COUNTED_AT_ONCE)])
        if not len(index_N):
            raise DataError(f"no user has {least} or more training items; there is nothing to learn from: check the "
                            "filter and the split of `prepare`")
        return cls(users, index_N, sequences, encoder.max_length + 1, least)

    def __len__(self) -> int:
        return len(self.index_N)

    @property
    def users_N(self) -> np.ndarray:
        """int64, internal user indices."""
        users_N: np.ndarray = self.users[self.index_N]
        return users_N

    @property
    def num_skipped(self) -> int:
        """Users with too few training items."""
        return len(self.sequences) - len(self)

    @property
    def lengths_N(self) -> np.ndarray:
        """int32, items of each row, cut to ``max_items``."""
        lengths_N = np.empty(len(self), np.int32)
        for start in range(0, len(self), _COUNTED_AT_ONCE):
            part = slice(start, start + _COUNTED_AT_ONCE)
            lengths_N[part] = np.minimum(self.sequences.lengths_of(self.index_N[part]), self.max_items)
        return lengths_N

    def item_counts(self, num_items: int) -> np.ndarray:
        """Occurrences of items 1…n in the training sequences, int64."""
        counts = np.zeros(num_items + 1, np.int64)
        for start in range(0, len(self.sequences.values), _COUNTED_AT_ONCE):
            counts += np.bincount(self.sequences.values[start : start + _COUNTED_AT_ONCE], minlength=num_items + 1)
        return counts[1:]

    def target_counts(self, num_items: int) -> np.ndarray:
        """At how many positions an epoch may ask for items 1…n, int64: among the most recent items of each row that are
        read, and of these not the first, unless students learn from lone items."""
        counts, width = np.zeros(num_items + 1, np.int64), self.max_items - (self.least == 1)
        at_once = max(_COUNTED_AT_ONCE // width, 1)
        for start in range(0, len(self), at_once):
            read_BL = self.sequences.padded(self.index_N[start : start + at_once], width)
            counts += np.bincount(read_BL[:, self.least - 1 :].ravel(), minlength=num_items + 1)
        return counts[1:]

    def drawn_by(self, loss: RankingLossConfig, num_items: int) -> np.ndarray | None:
        """The counts that its negatives follow, int64 of items 1…n; None: they follow none."""
        source = counted_source(loss)
        if source is None:
            return None
        return self.target_counts(num_items) if source == "in_batch" else self.item_counts(num_items)

    def with_targets(self, targets: Targets) -> TrainingRows:
        """The same rows with teacher targets beside them."""
        return replace(self, targets=targets)

    def batch(self, rows_B: np.ndarray, with_targets: bool) -> Batch:
        """The batch of some training rows; none at all is fine. Targets are fetched only where they are used.

        Args:
            rows_B: ascending by length.
            with_targets: whether this step distils.
        """
        index_B = self.index_N[rows_B]
        items_BL = torch.from_numpy(self.sequences.padded(index_B, self.max_items))
        users_B = torch.from_numpy(self.users[index_B])
        cut = pieces(np.minimum(self.sequences.lengths_of(index_B), self.max_items))
        if self.targets is None or not with_targets:
            return Batch(users_B, items_BL, pieces=cut)
        return Batch(users_B, items_BL, *self.targets.gather(rows_B), cut)


def shortest_row(encoder: SequenceEncoder) -> int:
    """Fewest items that hold a target: 1 if the student learns from a lone item (a mask), else 2 (the next item)."""
    alone = encoder.training_inputs(torch.ones(1, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), 0)
    return 1 if bool(alone.targets_BL.any()) else 2
