"""Scores of the next item that nothing was trained for, at every position of a batch: nearness of texts, and links from
the items that were read.

They score as the baselines of `evaluate` do with the same settings, popularity left out: the history of a position is
what stands at and before it.

Legend: B rows, L positions, X places of the padded pieces end to end (Y of some rows), N chosen ones (C of some rows),
M pairs of a chosen place and an item that it has read, K links between items, V items 1…n, T the same and padding,
E text width.
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


class Links(NamedTuple):
    """Whom each item votes for: row i's links stand at ``offsets_V[i]`` … ``offsets_V[i + 1] - 1``."""

    offsets_V: Tensor
    """int64 [V + 1]."""
    rows_K: Tensor
    """Integers: items as rows of the catalogue (item i is row i - 1)."""
    scores_K: Tensor
    """fp32."""
    largest_V: Tensor
    """fp32, of each item's links the largest by its amount."""

    @classmethod
    def of(cls, offsets_V: Tensor, rows_K: Tensor, scores_K: Tensor) -> Links:
        """With each item's largest."""
        largest_V = scores_K.new_zeros(len(offsets_V) - 1)
        own_K = torch.arange(len(largest_V), device=offsets_V.device).repeat_interleave(offsets_V.diff())
        return cls(offsets_V, rows_K, scores_K, largest_V.scatter_reduce_(0, own_K, scores_K.abs(), "amax"))


class Votes(NamedTuple):
    """Scores of a few items of each place, by the items that were read; kept as who votes, for whom is looked up where
    it is needed: a long history's votes are more than the catalogue has items."""

    counts_N: Tensor
    """int64, how many of the others belong to each place."""
    voters_M: Tensor
    """int64, rows of the items that vote, place by place."""
    weights_M: Tensor
    """fp32, what the links of each are multiplied with."""
    links: Links

    def bound(self) -> float:
        """No item's votes at a place sum to more."""
        sums_N = self.weights_M.new_zeros(len(self.counts_N))
        sums_N.index_add_(0, _places(self.counts_N), self.weights_M.abs() * self.links.largest_V[self.voters_M])
        return float(sums_N.max()) if len(sums_N) else 0.0

    def cast(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """The votes at places start…stop-1: whose each is, from 0, for which row, and how much, [K]; several for one
        row are summed by the caller."""
        first, last = (int(self.counts_N[:place].sum()) for place in (start, stop))
        voters_M, weights_M = self.voters_M[first:last], self.weights_M[first:last]
        begin_M = self.links.offsets_V[voters_M]
        count_M = self.links.offsets_V[voters_M + 1] - begin_M
        before_M = count_M.cumsum(0) - count_M
        within_K = torch.arange(int(count_M.sum()), device=count_M.device) - before_M.repeat_interleave(count_M)
        link_K = begin_M.repeat_interleave(count_M) + within_K
        return (_places(self.counts_N[start:stop]).repeat_interleave(count_M), self.links.rows_K[link_K].long(),
                self.links.scores_K[link_K] * weights_M.repeat_interleave(count_M))


def _places(counts_N: Tensor) -> Tensor:
    """int64 [M], place of each."""
    return torch.arange(len(counts_N), device=counts_N.device).repeat_interleave(counts_N)


class TextScores:
    """scale · cosine between an item's text and the weighted mean of the history's texts."""

    def __init__(self, vectors_VE: Tensor, decay: float, scale: float) -> None:
        """
        Args:
            vectors_VE: fp32 of length 1, or 0 where there is no text; row i is item i + 1.
            decay: a history item weighs exp(-decay · steps back).
            scale: what makes logits of cosines.
        """
        self._read_TE = torch.cat([vectors_VE.new_zeros(1, vectors_VE.shape[1]), vectors_VE])
        self._decay, self._scale = decay, scale

    @property
    def table_VE(self) -> Tensor:
        """What states are multiplied with."""
        return self._read_TE[1:]

    def to(self, device: torch.device) -> TextScores:
        """The same on a device."""
        self._read_TE = self._read_TE.to(device)
        return self

    def states_NE(self, inputs_BL: Sequence[Tensor], places_N: Tensor) -> Tensor:
        """fp32, to be multiplied with ``table_VE``; of length ``scale``, or 0 for a history without texts."""
        mixed_XE = torch.cat([(weights_BLL @ self._read_TE[items_BL]).flatten(0, 1)
                              for items_BL, weights_BLL in _read(inputs_BL, self._decay)])
        return self._scale * torch.nn.functional.normalize(mixed_XE.index_select(0, places_N), dim=1)


class LinkScores:
    """scale · the weighted sum of the links of the items that were read: transitions, or an item's neighbours."""

    def __init__(self, links: Links, decay: float, last_alone: bool, scale: float) -> None:
        """
        Args:
            links: whom each item votes for.
            decay: a history item weighs exp(-decay · steps back).
            last_alone: nothing but the newest item votes.
            scale: what makes logits of the scores.
        """
        self._links, self._decay, self._last_alone, self._scale = links, decay, last_alone, scale

    def to(self, device: torch.device) -> LinkScores:
        """The same on a device."""
        self._links = Links(*(each.to(device) for each in self._links))
        return self

    def votes(self, inputs_BL: Sequence[Tensor], places_N: Tensor) -> Votes:
        """Who votes at the chosen places."""
        place_M, voters_M, weights_M = self._pairs(inputs_BL, places_N)
        counts_N = torch.bincount(place_M, minlength=len(places_N))
        return Votes(counts_N, voters_M, weights_M * self._scale, self._links)

    def _pairs(self, inputs_BL: Sequence[Tensor], places_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Chosen place, item's row and weight of every item that votes, place by place."""
        if self._last_alone:
            items_N = torch.cat([piece_BL.flatten() for piece_BL in inputs_BL]).index_select(0, places_N)
            real_N = items_N.nonzero().squeeze(1)
            return real_N, items_N[real_N] - 1, torch.ones(len(real_N), device=items_N.device)
        found, start = [], 0
        number_X = places_N.new_full((sum(piece_BL.numel() for piece_BL in inputs_BL),), -1)
        number_X[places_N] = torch.arange(len(places_N), device=places_N.device)
        for items_BL, weights_BLL in _read(inputs_BL, self._decay):
            number_Y = number_X[start : start + items_BL.numel()]
            start += items_BL.numel()
            here_C = (number_Y >= 0).nonzero().squeeze(1)
            weights_CL = weights_BLL.flatten(0, 1)[here_C]
            row_M, step_M = weights_CL.nonzero().unbind(1)
            items_M = items_BL[here_C[row_M] // items_BL.shape[1], step_M]
            found.append((number_Y[here_C][row_M], items_M - 1, weights_CL[row_M, step_M]))
        place_M, voters_M, weights_M = (torch.cat(parts) for parts in zip(*found, strict=True))
        order_M = place_M.argsort(stable=True)  # the chosen places may stand in any order
        return place_M[order_M], voters_M[order_M], weights_M[order_M]


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
