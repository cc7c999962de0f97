"""Scores of the next item that nothing was trained for, at every position of a batch: nearness of texts, and links from
the items that were read.

They are the baselines of `evaluate` as teachers: the history of a position is what stands at and before it.

Legend: B rows, L positions, N chosen places of the flattened pieces, M pairs of a place and an item that it has read,
K links of those items, V items 1…n, E text width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_CELLS_AT_ONCE = 2**24
"""Weights of (row, position, earlier position) that are held at once, where a row allows it."""
_NOTHING = 1e-8
"""A weight below it is left out, as the baselines do."""


class Votes(NamedTuple):
    """Scores of a few items of each place; of an item that stands there twice the sum counts."""

    counts_N: Tensor
    """int64, how many of the others belong to each place."""
    rows_K: Tensor
    """int64, items as rows of the catalogue (item i is row i - 1), place by place."""
    scores_K: Tensor
    """fp32."""

    @property
    def places_K(self) -> Tensor:
        """int64, whose each of them is."""
        return torch.arange(len(self.counts_N), device=self.counts_N.device).repeat_interleave(self.counts_N)

    @classmethod
    def joined(cls, votes: Sequence[Votes]) -> Votes:
        """All of them, added up; of the same places, one or more."""
        if len(votes) == 1:
            return votes[0]
        order_K = torch.cat([one.places_K for one in votes]).argsort(stable=True)
        return cls(torch.stack([one.counts_N for one in votes]).sum(0),
                   torch.cat([one.rows_K for one in votes])[order_K],
                   torch.cat([one.scores_K for one in votes])[order_K])


class TextScores:
    """scale · cosine between an item's text and the weighted mean of the history's texts."""

    def __init__(self, vectors_VE: Tensor, decay: float, scale: float) -> None:
        """
        Args:
            vectors_VE: fp32 of length 1, or 0 where there is no text; row i is item i + 1.
            decay: a history item weighs exp(-decay · steps back).
            scale: what makes logits of cosines.
        """
        self.table_VE = vectors_VE * scale
        self._read_TE = torch.cat([vectors_VE.new_zeros(1, vectors_VE.shape[1]), vectors_VE])
        self._decay = decay

    def to(self, device: torch.device) -> TextScores:
        """The same on a device."""
        self.table_VE, self._read_TE = self.table_VE.to(device), self._read_TE.to(device)
        return self

    def states_NE(self, inputs_BL: Sequence[Tensor], places_N: Tensor) -> Tensor:
        """fp32, to be multiplied with ``table_VE``; of length 1, or 0 for a history without texts."""
        mixed_XE = torch.cat([(weights_BLL @ self._read_TE[items_BL]).flatten(0, 1)
                              for items_BL, weights_BLL in _read(inputs_BL, self._decay)])
        return torch.nn.functional.normalize(mixed_XE.index_select(0, places_N), dim=1)


class LinkScores:
    """scale · the weighted sum of the links of the items that were read: transitions, or an item's neighbours."""

    def __init__(self, offsets_V: Tensor, rows_K: Tensor, scores_K: Tensor, decay: float, last_alone: bool,
                 scale: float) -> None:
        """
        Args:
            offsets_V: int64 [V + 1]; row i's links are ``offsets_V[i]`` … ``offsets_V[i + 1] - 1``.
            rows_K: int64, whom each votes for, as rows of the catalogue.
            scores_K: fp32, how much.
            decay: a history item weighs exp(-decay · steps back).
            last_alone: nothing but the newest item votes.
            scale: what makes logits of the scores.
        """
        self._offsets_V, self._rows_K, self._scores_K = offsets_V, rows_K, scores_K * scale
        self._decay, self._last_alone = decay, last_alone

    def to(self, device: torch.device) -> LinkScores:
        """The same on a device."""
        self._offsets_V, self._rows_K, self._scores_K = (
            each.to(device) for each in (self._offsets_V, self._rows_K, self._scores_K))
        return self

    def votes(self, inputs_BL: Sequence[Tensor], places_N: Tensor) -> Votes:
        """Who is voted for at the chosen places."""
        place_M, row_M, weight_M = self._pairs(inputs_BL, places_N)
        first_M, count_M = self._offsets_V[row_M], self._offsets_V[row_M + 1] - self._offsets_V[row_M]
        ends_M = count_M.cumsum(0)
        within_K = torch.arange(int(count_M.sum()), device=row_M.device) - (ends_M - count_M).repeat_interleave(count_M)
        link_K = first_M.repeat_interleave(count_M) + within_K
        counts_N = count_M.new_zeros(len(places_N)).index_add_(0, place_M, count_M)
        return Votes(counts_N, self._rows_K[link_K], self._scores_K[link_K] * weight_M.repeat_interleave(count_M))

    def _pairs(self, inputs_BL: Sequence[Tensor], places_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Chosen place, item's row and weight of every item that votes, place by place."""
        if self._last_alone:
            items_N = torch.cat([piece_BL.flatten() for piece_BL in inputs_BL]).index_select(0, places_N)
            real_N = items_N.nonzero().squeeze(1)
            return real_N, items_N[real_N] - 1, torch.ones(len(real_N), device=items_N.device)
        found, start = [], 0
        chosen_X = places_N.new_full((sum(piece_BL.numel() for piece_BL in inputs_BL),), -1)
        chosen_X[places_N] = torch.arange(len(places_N), device=places_N.device)
        for items_BL, weights_BLL in _read(inputs_BL, self._decay):
            chosen_B = chosen_X[start : start + items_BL.numel()]
            start += items_BL.numel()
            here = (chosen_B >= 0).nonzero().squeeze(1)
            weights_HL = weights_BLL.flatten(0, 1)[here]
            row_M, step_M = weights_HL.nonzero().unbind(1)
            items_M = items_BL[here // items_BL.shape[1]][row_M, step_M]
            found.append((chosen_B[here][row_M], items_M - 1, weights_HL[row_M, step_M]))
        place_M, row_M, weight_M = (torch.cat(parts) for parts in zip(*found, strict=True))
        order_M = place_M.argsort(stable=True)  # the chosen places may stand in any order
        return place_M[order_M], row_M[order_M], weight_M[order_M]


def _read(inputs_BL: Sequence[Tensor], decay: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Some rows at a time, in order: their items, and what each earlier one weighs at each position [B, L, L]."""
    for piece_BL in inputs_BL:
        for items_BL in piece_BL.split(max(_CELLS_AT_ONCE // piece_BL.shape[1] ** 2, 1)):
            yield items_BL, prefix_weights_BLL(items_BL, decay)


def prefix_weights_BLL(items_BL: Tensor, decay: float) -> Tensor:
    """exp(-decay · (t - s)) at [row, t, s] for the item at s in the history that ends with t; a repeated item counts
    once, at its last place up to t; fp32, 0 elsewhere and for padding."""
    width = items_BL.shape[1]
    steps_L = torch.arange(width, device=items_BL.device)
    back_LL = steps_L.unsqueeze(1) - steps_L
    decayed_LL = torch.exp(-decay * back_LL.clamp(min=0)) * (back_LL >= 0)
    decayed_LL = decayed_LL * (decayed_LL > _NOTHING)
    # Equal items stand side by side, in time order: each one's successor there is its next place.
    ordered_BL, order_BL = items_BL.sort(dim=1, stable=True)
    following_BL = torch.full_like(items_BL, width)
    again_BL = ordered_BL[:, 1:] == ordered_BL[:, :-1]
    following_BL[:, :-1] = torch.where(again_BL, order_BL[:, 1:], following_BL[:, :-1])
    next_BL = torch.empty_like(following_BL).scatter_(1, order_BL, following_BL)
    last_BLL = next_BL.unsqueeze(1) > steps_L.unsqueeze(1)
    return decayed_LL * last_BLL * (items_BL != 0).unsqueeze(1)
