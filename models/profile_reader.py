"""A recommender that reads the user's profile beside the history, in training and as a member of an ensemble.

Privileged information (Vapnik & Vashist, 2009): every item of a history is read with a linear map of its user's profile
vector added. What it ranks better for that reaches a student through its rankings; the student itself, like what is
exported of this recommender, knows no profile. Without one (in a seeded share of the training rows, and wherever it is
served) the plain item vectors are read.

Legend: R profiled users, P profile width, B batch, L positions, T rows that are read, X rows of a table,
D hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from models.base import ITEM_PARAMETER, Student, keep_last, last_positions
from models.hashing import derive_seed
from models.perturbation import uniform
from models.protocols import Encoded
from models.scoring import EncoderScorer
from models.sequences import Sequences

_DROPOUT_STREAM = 3


class ProfileReader(nn.Module):
    """What is added to the items of a user; only the map is a parameter."""

    def __init__(self, users_R: Tensor, vectors_RP: Tensor, hidden_dim: int, dropout: float = 0.0) -> None:
        """
        Args:
            users_R: int64, ascending: user indices as batches have them.
            vectors_RP: fp32, their profiles.
            hidden_dim: D.
            dropout: share of users that are read without their profile, drawn anew for every seed.
        """
        super().__init__()
        self.register_buffer("users_R", users_R, persistent=False)
        self.register_buffer("vectors_RP", vectors_RP, persistent=False)
        self.users_R: Tensor
        self.vectors_RP: Tensor
        self.dropout = dropout
        self.map_DP = nn.Parameter(torch.zeros(hidden_dim, vectors_RP.shape[1]))  # starts as the plain recommender

    def forward(self, users_B: Tensor, seed: int | None = None) -> Tensor:
        """fp32 [B, D]; zeros for users without a profile, and without ``seed`` nobody is left out."""
        place_B = torch.searchsorted(self.users_R, users_B).clamp(max=len(self.users_R) - 1)
        told_B = self.users_R[place_B] == users_B
        if seed is not None and self.dropout:
            told_B = told_B & (uniform(derive_seed(seed, _DROPOUT_STREAM), users_B, 1).squeeze(1) >= self.dropout)
        added_BD: Tensor = (self.vectors_RP[place_B] * told_B.unsqueeze(1)) @ self.map_DP.T
        return added_BD


def with_users(table_XD: Tensor, inputs_BL: Sequence[Tensor], added_BD: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A table with one row per real position, its item's with its user's vector added, and the inputs that read it.

    Args:
        table_XD: row 0 is padding's and stays.
        inputs_BL: rows of the table, piece by piece; 0 is padding.
        added_BD: of the pieces' rows, end to end.
    """
    rows, places, first, start = [table_XD[:1]], [], 1, 0
    for piece_BL in inputs_BL:
        real_BL = piece_BL != 0
        own_BD = added_BD[start : start + len(piece_BL)]
        rows.append(table_XD[piece_BL[real_BL]] + own_BD.repeat_interleave(real_BL.sum(1), 0))
        place_BL = real_BL.flatten().cumsum(0).view_as(piece_BL) - 1 + first
        places.append(place_BL.masked_fill(~real_BL, 0))
        first, start = first + len(rows[-1]), start + len(piece_BL)
    return torch.cat(rows), places


class ReadingStudent:
    """A finished student together with what it reads of profiles; called as its encoder is, for one batch's users."""

    def __init__(self, student: Student, reader: ProfileReader) -> None:
        self.student, self.reader = student, reader

    def read(self, inputs_BL: Sequence[Tensor], users_B: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The table and inputs for :meth:`encode`. ``inputs_BL``: item ids, piece by piece."""
        return with_users(self.student.item_embedding.weight, inputs_BL, self.reader(users_B))

    def encode(self, table_TD: Tensor, *arguments: object) -> Encoded:
        """The student over that table."""
        encoded: Encoded = torch.func.functional_call(self.student, {ITEM_PARAMETER: table_TD}, arguments,
                                                      tie_weights=False)
        return encoded

    @torch.no_grad()
    def user_states_BD(self, items_BL: Tensor, users_B: Tensor) -> Tensor:
        """The state at each user's last real item."""
        table_TD, (inputs_BL,) = self.read([keep_last(items_BL, self.student.max_length)], users_B)
        return self.encode(table_TD, inputs_BL).hidden_BLD[last_positions(inputs_BL)]


class ReadingScorer(EncoderScorer):
    """Ranks users whose profiles are read. Their states are made when they are given, by one thread: an encoder whose
    table is exchanged cannot serve several."""

    def __init__(self, reading: ReadingStudent, device: torch.device | str) -> None:
        super().__init__(reading.student, device)
        self._reading, self._states_ND = reading, torch.empty(0)

    def give(self, histories: Sequences, users_N: np.ndarray, batch: int = 256) -> None:
        """From now on ``states`` is about these users' histories."""
        width = self._reading.student.max_length
        parts = [torch.empty(0, self.items_VD.shape[1], device=self._device)]
        with self.without_dropout():
            for start in range(0, len(users_N), batch):
                rows = np.arange(start, min(start + batch, len(users_N)))
                items_BL, users_B = torch.from_numpy(histories.padded(rows, width)), torch.from_numpy(users_N[rows])
                parts.append(self._reading.user_states_BD(items_BL.to(self._device), users_B.to(self._device)).float())
        self._states_ND = torch.cat(parts)

    def states(self, histories: Sequences, indices: np.ndarray) -> Tensor:
        """Of the given users; ``indices`` count in them."""
        return self._states_ND[torch.from_numpy(indices).to(self._states_ND.device)]
