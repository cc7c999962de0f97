"""Negative items of a global batch: drawn once, shared by all its positions, equal on every rank.

What is drawn is a pure function of (seed, catalogue, counts) or, in-batch, of the global batch's targets as a
multiset; so neither the number of workers nor their order changes it.

Legend: N targets of this rank, G targets of the global batch, K distinct negatives, V items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from configs.errors import ConfigError
from models.config import NegativeSource
from models.hashing import position_bits
from models.parallel import gather_ids


@dataclass(frozen=True)
class Negatives:
    """Distinct negatives in ascending order; what was drawn m times counts m times."""

    items_K: Tensor
    """int64 ids 1…n; where a loss reads them, their rows in its weights."""
    counts_K: Tensor
    """fp32, how often each was drawn."""
    expected_K: Tensor
    """fp32, how often the source was to draw it: draws × Q(item)."""

    def located(self, rows_K: Tensor) -> Negatives:
        """The same with the items' rows in some table, in the same order."""
        return replace(self, items_K=rows_K)


class NegativeSampler(nn.Module):
    """Draws with replacement. ``in_batch`` takes the targets of the other positions, at most ``draws`` of them."""

    share_V: Tensor | None
    """fp64, Q of the two sources that follow the data; None: uniform."""
    edge_V: Tensor | None
    """int64, cumulated occurrences."""

    def __init__(self, source: NegativeSource, draws: int, num_items: int, counts_V: Tensor | None) -> None:
        """``counts_V``: of items 1…n, their interactions in training for ``popularity``, positions that ask for
        them for ``in_batch``.

        Raises:
            ConfigError: they are missing.
        """
        super().__init__()
        if source != "uniform" and counts_V is None:
            raise ConfigError(f"train.loss.source: {source} negatives need the items' counts in training; pass "
                              "item_counts_V, or choose uniform")
        self.source, self.draws, self.num_items = source, draws, num_items
        share_V = edge_V = None
        if source != "uniform" and counts_V is not None:
            # An item of the batch that was never counted must not weigh infinitely.
            share_V, edge_V = counts_V.clamp(min=1).double() / counts_V.sum(), counts_V.long().cumsum(0)
        # Neither parameters nor state: they are not saved and not served.
        self.register_buffer("share_V", share_V, persistent=False)
        self.register_buffer("edge_V", edge_V, persistent=False)

    def forward(self, targets_N: Tensor, seed: int) -> Negatives:
        """The negatives of one step; every rank must call it, with its own targets (ids 1…n)."""
        if self.source == "in_batch":
            targets_G = gather_ids(targets_N).sort().values
            kept_S = targets_G
            if len(targets_G) > self.draws:
                kept_S = targets_G[self._bits(seed, len(targets_G), targets_G).argsort()[: self.draws]]
            # A position's own target is masked as a hit, so every other item had one draw less to come from.
            return self._counted(kept_S, len(kept_S) * max(len(targets_G) - 1, 1) / max(len(targets_G), 1))
        bits_S = self._bits(seed, self.draws, targets_N)
        if self.edge_V is None:
            return self._counted(bits_S % self.num_items + 1, self.draws)
        return self._counted(torch.searchsorted(self.edge_V, bits_S % self.edge_V[-1], right=True) + 1, self.draws)

    @staticmethod
    def _bits(seed: int, count: int, like: Tensor) -> Tensor:
        return position_bits(seed, like.new_zeros(1), count)[0]

    def _counted(self, drawn_S: Tensor, draws: float) -> Negatives:
        items_K, counts_K = drawn_S.unique(return_counts=True)
        if self.share_V is None:
            expected_K = torch.full_like(items_K, draws / self.num_items, dtype=torch.float32)
        else:
            expected_K = (draws * self.share_V[items_K - 1]).float()
        return Negatives(items_K, counts_K.float(), expected_K)
