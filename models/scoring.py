"""Who scores items for users, and what ranking by those scores gives.

Legend: N cases, B users, V catalogue, C items of a chunk, K list length, D state width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, NoReturn, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from configs.errors import TrainingError
from models.ordering import tie_order
from models.products import Catalogue
from models.protocols import SequenceEncoder
from models.sequences import Sequences

_ENCODE_POSITIONS, _LEAST_ROWS = 2048, 64
"""Positions encoded at once, padding counted, and sequences at once at least: of similar length, so that short ones are
not padded to a long one's."""


class Scorer(Protocol):
    """Anything that scores items for users: a trained encoder or a baseline."""

    @property
    def num_items(self) -> int:
        """Size of the catalogue; items are 1…num_items."""

    def states(self, histories: Sequences, indices: np.ndarray) -> Any:
        """What :meth:`scores` needs of the users at ``indices``, in that order."""

    def scores(self, states: Any, start: int, stop: int) -> Tensor:
        """Finite fp32 scores [B, stop - start] of items start…stop-1 (1-based ids), in a tensor of the caller's."""


@dataclass(frozen=True)
class Ranks:
    """Where each target stands and what would be recommended."""

    rank: np.ndarray
    """int32 [N], 1-based, the user's seen items removed (never the target, even if seen)."""
    rank_unfiltered: np.ndarray
    """int32 [N], 1-based, among all items."""
    top: np.ndarray
    """int32 [N, K], best first, seen items removed (never the target); 0 where no item is left."""
    top_unfiltered: np.ndarray
    """int32 [N, K], best first, among all items; 0 beyond the catalogue's end."""

    @classmethod
    def joined(cls, parts: Sequence[Ranks]) -> Ranks:
        """Of the cases of all parts, one after the other; at least one part."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))


class EncoderScorer:
    """Scores of a trained sequence encoder: user state times item weights, in fp32.

    The item weights are read when the scorer is made: make a new one after a training step.
    """

    def __init__(self, encoder: SequenceEncoder, device: torch.device | str = "cpu") -> None:
        self.num_items = encoder.num_items
        self._encoder = encoder
        self._module = cast(nn.Module, encoder).to(device)
        self._device = torch.device(device)
        self._catalogues: dict[int, Catalogue] = {}
        with torch.inference_mode():
            self.items_VD = encoder.item_weights_VD().detach().float().contiguous()

    def catalogue(self, tie_seed: int) -> Catalogue:
        """The items on the CPU with their order by this seed, made once however many blocks of users are ranked."""
        if tie_seed not in self._catalogues:
            self._catalogues[tie_seed] = Catalogue(self.items_VD.cpu(), tie_order(self.num_items, tie_seed))
        return self._catalogues[tie_seed]

    def states(self, histories: Sequences, indices: np.ndarray) -> Tensor:
        """fp32 [B, D], encoded in batches of similar length, without dropout."""
        states_BD = torch.empty(len(indices), self.items_VD.shape[1], device=self._device)
        by_length = np.argsort(histories.lengths_of(indices), kind="stable")
        with self.without_dropout(), torch.inference_mode():
            stop = len(by_length)
            while stop:  # from the longest on: the first of a batch tells its width
                longest = int(histories.lengths_of(indices[by_length[stop - 1 : stop]])[0])
                width = max(min(longest, self._encoder.max_length), 1)
                start = max(stop - max(_ENCODE_POSITIONS // width, _LEAST_ROWS), 0)
                rows, stop = by_length[start:stop], start
                items_BL = torch.from_numpy(histories.padded(indices[rows], self._encoder.max_length))
                encoded_BD = self._encoder.user_states_BD(items_BL.to(self._device)).float()
                states_BD[torch.from_numpy(rows).to(self._device)] = encoded_BD
        return states_BD

    @contextmanager
    def without_dropout(self) -> Iterator[None]:
        """Evaluation mode inside the block. Where several threads ask for states, one block encloses them all: the mode
        is the module's, and the first thread to leave a block of its own would switch it back under the others."""
        if not self._module.training:  # to walk through its parts takes as long as to read a history
            yield
            return
        self._module.eval()
        try:
            yield
        finally:
            self._module.train()

    def scores(self, states: Tensor, start: int, stop: int) -> Tensor:
        """fp32 [B, stop - start]."""
        return states @ self.items_VD[start - 1 : stop - 1].T


def not_finite(user: int, item: int, score: float) -> NoReturn:
    """Say which score is NaN or infinite."""
    raise TrainingError(f"score of user {user}, item {item}: got {score}; legal: finite numbers; the model's weights "
                        "are damaged or its training diverged: lower the learning rate and train again")
