"""Matching a teacher's ranking: KL from its softmax over the whole catalogue to the student's, beside the next item.

"Function matching" (Beyer et al., CVPR'22) for recommenders: the response-based form of distillation (Hinton et al.,
2015) with the mean logits of one or several finished recommenders as the teacher. Both gradients are made in the
forward pass over tiles of items × positions; nothing as large as positions × items exists.

Legend: N positions with a target, D hidden width, V items, E width of the teacher's states (all members side by side),
R positions of a chunk, C items of a tile, K votes of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.history_scores import Votes
from models.matmul import ROWS, Precision, add_product, factor, padded, product, rounding
from models.softmax import BITS, SAFE_EXPONENT

_TILE_CELLS = {"cpu": 2**21}
"""Scores of a tile, positions × items; the student's, the teacher's and their difference are held at once."""
_GPU_CELLS = 2**26
_CHUNK_ROWS = {"cpu": 2 * ROWS}
_GPU_ROWS = 16 * ROWS


class TeacherScores(NamedTuple):
    """What a teacher says of the same positions: the scores ``states_NE @ table_VE.T``, and the votes beside."""

    states_NE: Tensor
    table_VE: Tensor
    votes: Sequence[Votes] = ()


class MatchingSums(NamedTuple):
    """Sums over positions, fp32 scalars; ``objective`` alone carries a gradient."""

    objective: Tensor
    """(1 - weight)·ranking + weight·matching."""
    ranking: Tensor
    """Cross-entropy of the next item."""
    matching: Tensor
    """τ²·KL(teacher ‖ student), both softmaxes at temperature τ; where it has no weight, at 1."""


def match(hidden_ND: Tensor, weights_VD: Tensor, rows_N: Tensor, teaching: TeacherScores, weight: float,
          temperature: float = 1.0, precision: Precision = "fp32") -> MatchingSums:
    """The student's loss against the next item and against the teacher's softmax.

    Args:
        hidden_ND: fp32 states.
        weights_VD: fp32 scoring vectors.
        rows_N: the next items, as rows of ``weights_VD``.
        teaching: the teacher's states and table, fp32; no gradient flows there.
        weight: of the matching against the ranking, in [0, 1].
        temperature: τ of both softmaxes; τ² keeps the gradient's size (Hinton et al., 2015, §2).
        precision: of the matrix products' factors.
    """
    return MatchingSums(*_Match.apply(hidden_ND, weights_VD, rows_N, *teaching, weight, temperature, precision))


class _Match(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weights_VD: Tensor, rows_N: Tensor, states_NE: Tensor, table_VE: Tensor,
                votes: Sequence[Votes], weight: float, temperature: float, precision: Precision
                ) -> tuple[Tensor, Tensor, Tensor]:
        count = len(hidden_ND)
        with rounding(precision):
            student = _Side(hidden_ND, weights_VD, precision, temperature)
            teacher = _Side(states_NE, table_VE, precision, temperature, votes)
            sums = _Sums(student, teacher, weight, temperature, precision)
            sums.run()
        hidden_grad_ND, targets_ND = sums.hidden_grad_DN.T[:count].contiguous(), weights_VD.index_select(0, rows_N)
        ranking = sums.normalisers_N[:count].sum() - (hidden_ND * targets_ND).sum()
        hidden_grad_ND.sub_(targets_ND, alpha=1 - weight)
        sums.weights_grad_VD.index_add_(0, rows_N, hidden_ND, alpha=weight - 1)
        ctx.save_for_backward(hidden_grad_ND, sums.weights_grad_VD)
        matching = sums.divergence * sums.tau**2
        ctx.mark_non_differentiable(ranking, matching)
        return (1 - weight) * ranking + weight * matching, ranking, matching

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        # Made for this very call and used once: scaled in place, the catalogue's gradient is not copied.
        hidden_grad_ND, weights_grad_VD = ctx.saved_tensors
        return hidden_grad_ND.mul_(grads[0]), weights_grad_VD.mul_(grads[0]), *(None,) * 7


class _Side:
    """The student's or the teacher's states and table; scores are powers of 2, see ``models.softmax``."""

    def __init__(self, states_NX: Tensor, table_VX: Tensor, precision: Precision, temperature: float,
                 votes: Sequence[Votes] = ()) -> None:
        self.states_NX = padded(states_NX) if states_NX.device.type == "cpu" else states_NX
        self.table_VX = factor(table_VX, precision)
        self._scored_NX = factor(self.states_NX * BITS, precision)
        longest = [torch.linalg.vector_norm(rows, dim=1).max() for rows in (states_NX, table_VX)]
        self._votes = [_VoteTiles(each) for each in votes]
        largest = float(longest[0] * longest[1]) + sum(each.bound() for each in votes)
        # Quotients of two sums must fit as well, and so must scores that a small τ enlarges.
        self._safe = largest / min(temperature, 1.0) <= SAFE_EXPONENT / 2

    def scores_CR(self, items: slice, part: slice) -> Tensor:
        """fp32 [C, R]."""
        scores_CR = product(self.table_VX[items], self._scored_NX[part])
        for votes in self._votes:
            votes.add_to(scores_CR, items, part, len(self.table_VX))
        return scores_CR

    def top_R(self, tiles: list[slice], part: slice) -> Tensor | None:
        """The largest score of each position; None where no power of the scores can overflow."""
        if self._safe:
            return None
        return torch.stack([self.scores_CR(items, part).amax(0) for items in tiles]).amax(0)


class _VoteTiles:
    """Votes of one kind, tile by tile; those of a chunk of positions are looked up once."""

    def __init__(self, votes: Votes) -> None:
        self._votes, self._start = votes, -1
        self._cast = (votes.voters_M, votes.voters_M, votes.weights_M)

    def add_to(self, scores_CR: Tensor, items: slice, part: slice, num_items: int) -> None:
        """Their share of a tile, in place."""
        if part.start != self._start:
            self._start = part.start
            self._cast = self._votes.cast(part.start, min(part.stop, len(self._votes.counts_N)))
        places_K, rows_K, scores_K = self._cast
        if len(scores_CR) < num_items:
            inside_K = ((rows_K >= items.start) & (rows_K < items.stop)).nonzero().squeeze(1)
            places_K, rows_K, scores_K = places_K[inside_K], rows_K[inside_K], scores_K[inside_K]
        cells_K = (rows_K - items.start) * scores_CR.shape[1] + places_K
        scores_CR.view(-1).index_add_(0, cells_K, scores_K, alpha=BITS)


class _Totals(NamedTuple):
    """Sums of powers over the catalogue for the positions of a chunk: fp32 [R] each."""

    student: Tensor
    soft: Tensor
    """Of the student at τ."""
    teacher: Tensor


class _Tile(NamedTuple):
    """Powers of 2 of scores, less each position's largest where needed: [C, R]. At τ = 1 ``soft`` is ``student``."""

    student: Tensor
    soft: Tensor
    teacher: Tensor
    gap: Tensor
    """The teacher's score less the student's, both at τ."""

    def totals(self) -> _Totals:
        student_R = self.student.sum(0)
        return _Totals(student_R, student_R if self.soft is self.student else self.soft.sum(0), self.teacher.sum(0))


class _Sums:
    """Each position's normaliser, the divergence, and the gradients of (1 - weight)·Σ logsumexp + weight·τ²·KL."""

    def __init__(self, student: _Side, teacher: _Side, weight: float, temperature: float, precision: Precision) -> None:
        hidden_ND, table_VD = student.states_NX, student.table_VX
        device = hidden_ND.device.type
        self._student, self._teacher, self._precision = student, teacher, precision
        self.tau = temperature if weight else 1.0  # of a divergence that does not count
        # The change of a score: soft·p_τ + plain·p - soft·q, and at τ = 1, where both p are one, p - weight·q.
        self._shares = (1.0, 0.0, weight) if self.tau == 1 else (
            weight * temperature, 1 - weight, weight * temperature)
        cells, rows = _TILE_CELLS.get(device, _GPU_CELLS), _CHUNK_ROWS.get(device, _GPU_ROWS)
        whole = cells // len(table_VD) // ROWS * ROWS  # positions whose scores of the whole catalogue are one tile
        self._rows = min(rows, whole or rows)
        self._items = max(cells // self._rows, ROWS)
        self.hidden_grad_DN = hidden_ND.new_zeros(hidden_ND.shape[::-1])
        self.weights_grad_VD = torch.zeros_like(table_VD, dtype=torch.float32)
        self.normalisers_N = hidden_ND.new_zeros(len(hidden_ND))
        self.divergence = hidden_ND.new_zeros(())

    def run(self) -> None:
        """One pass where a chunk's scores of the whole catalogue are one tile, else two."""
        catalogue = len(self._student.table_VX)
        tiles = [slice(first, first + self._items) for first in range(0, catalogue, self._items)]
        for start in range(0, len(self._student.states_NX), self._rows):
            part = slice(start, start + self._rows)
            tops = self._student.top_R(tiles, part), self._teacher.top_R(tiles, part)
            if len(tiles) == 1:
                tile = self._tile(tiles[0], part, tops)
                totals = tile.totals()
                self._gradients(tile, totals, tiles[0], part)
            else:
                found = [self._tile(items, part, tops).totals() for items in tiles]
                totals = _Totals(*(torch.stack(each).sum(0) for each in zip(*found, strict=True)))
                for items in tiles:
                    self._gradients(self._tile(items, part, tops), totals, items, part)
            self._close(totals, tops[0], part)

    def _tile(self, items: slice, part: slice, tops: tuple[Tensor | None, Tensor | None]) -> _Tile:
        student_CR, teacher_CR = (side.scores_CR(items, part) for side in (self._student, self._teacher))
        for scores_CR, top_R in zip((student_CR, teacher_CR), tops, strict=True):
            if top_R is not None:
                scores_CR -= top_R
        soft_CR = student_CR
        if self.tau != 1:
            soft_CR, teacher_CR = student_CR / self.tau, teacher_CR.div_(self.tau)
        gap_CR = teacher_CR - soft_CR
        student_CR.exp2_()
        if soft_CR is not student_CR:
            soft_CR.exp2_()
        return _Tile(student_CR, soft_CR, teacher_CR.exp2_(), gap_CR)

    def _gradients(self, tile: _Tile, totals: _Totals, items: slice, part: slice) -> None:
        """Add a tile's share; its powers are used up. What is common to a position's scores is left to its smaller
        factors."""
        self.divergence += (tile.gap.mul_(tile.teacher).sum(0) / totals.teacher).sum() * log(2)
        soft, plain, teacher = self._shares
        change_CR = tile.soft.addcmul_(tile.teacher, totals.soft / totals.teacher, value=-teacher / soft)
        if plain:
            change_CR.addcmul_(tile.student, totals.soft / totals.student, value=plain / soft)
        change_CR = factor(change_CR, self._precision)
        add_product(self.hidden_grad_DN[:, part], self._student.table_VX[items].T.contiguous(), change_CR.T)
        shares_RD = self._student.states_NX[part] * (soft / totals.soft).unsqueeze(1)
        add_product(self.weights_grad_VD[items], change_CR, factor(shares_RD, self._precision).T)

    def _close(self, totals: _Totals, top_R: Tensor | None, part: slice) -> None:
        """What a chunk's totals say once all its tiles are done."""
        self.hidden_grad_DN[:, part] *= self._shares[0] / totals.soft
        self.divergence += (totals.soft.log() - totals.teacher.log()).sum()
        self.normalisers_N[part] = totals.student.log()
        if top_R is not None:
            self.normalisers_N[part] += top_R * log(2)
