"""The item table in a training step: the rows that the encoder reads, and those that its states are scored against.

Legend: B batch, L positions, N positions with a target, T rows that are read, X rows that are scored against.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from configs.errors import ConfigError
from models.base import Student
from models.item_table import ItemTable
from models.negatives import Negatives, NegativeSampler
from models.protocols import Encoded, SequenceEncoder, TrainingInputs
from models.rowwise import RowwiseTable


class Scored(NamedTuple):
    """What one rank reads, piece by piece, and must score."""

    inputs_BL: list[Tensor]
    """Rows of ``read_TD``, or item ids where that is None."""
    chosen_N: Tensor
    """Places of the targets in the flattened pieces, end to end."""
    read_TD: Tensor | None
    """The rows of the item table that the encoder reads; None: it reads a table that we do not know."""
    weights_XD: Tensor
    rows_N: Tensor
    """The targets, as rows of ``weights_XD``."""
    negatives: Negatives | None


class ItemRows:
    """Looks up what a step needs of an encoder's item table. A student of ours is given exactly those rows; another
    encoder reads its own table, whatever that is."""

    def __init__(self, encoder: SequenceEncoder, sampler: NegativeSampler | None,
                 computed: ItemTable | None = None) -> None:
        """``computed``: the table that a student of ours reads and scores in place of its own."""
        self._encoder, self._sampler, self._computed = encoder, sampler, computed
        self._table: str | None = "item_embedding.weight" if isinstance(encoder, Student) else None
        self._rows: RowwiseTable | None = None

    def train_rows_of(self, table: RowwiseTable) -> None:
        """From now on :meth:`look_up` reads the table's rows from there, and their gradient stays there.

        Raises:
            ConfigError: the loss scores the whole catalogue.
        """
        if self._sampler is None:
            raise ConfigError("train.optimizer.table: rowwise needs a loss with sampled negatives, but softmax touches "
                              "every item in every step; choose sampled_softmax, bce or gbce, or dense")
        self._table, self._rows = table.name, table

    def look_up(self, inputs: list[TrainingInputs], draw_seed: int) -> Scored:
        """What this rank's encoder reads, its targets and the step's negatives, and the table that they are rows of."""
        inputs_BL = [piece.inputs_BL for piece in inputs]
        targets_X = torch.cat([piece.targets_BL.flatten() for piece in inputs])
        chosen_N = targets_X.nonzero().squeeze(1)
        targets_N = targets_X.index_select(0, chosen_N)
        negatives = None if self._sampler is None else self._sampler(targets_N, draw_seed)
        if self._table is None:
            if negatives is not None:
                negatives = negatives.located(negatives.items_K - 1)
            return Scored(inputs_BL, chosen_N, None, self._encoder.item_weights_VD(), targets_N - 1, negatives)
        # 0 is always among them, so padding stays row 0.
        named = [targets_N.new_zeros(1), *(x.flatten() for x in inputs_BL)]
        if negatives is not None:
            named += [targets_N, negatives.items_K]
        rows_TD, ids_T, weights_VD = self._take(torch.cat(named))
        inputs_BL = [torch.searchsorted(ids_T, x.contiguous()) for x in inputs_BL]
        if negatives is None:
            return Scored(inputs_BL, chosen_N, rows_TD, weights_VD, targets_N - 1, None)
        rows_N, rows_K = torch.searchsorted(ids_T, targets_N), torch.searchsorted(ids_T, negatives.items_K)
        return Scored(inputs_BL, chosen_N, rows_TD, rows_TD, rows_N, negatives.located(rows_K))

    def _take(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The item table's rows that ``ids`` name, those ids in ascending order, and rows 1…n of the table."""
        assert isinstance(self._encoder, nn.Module) and self._table is not None
        if self._rows is not None:
            rows_TD, ids_T = self._rows.take(ids)
            return rows_TD, ids_T, self._encoder.item_weights_VD()
        ids_T = ids.unique()
        table_XD = self._encoder.get_parameter(self._table) if self._computed is None else self._computed()
        rows_TD, weights_VD = _ReadAndScored.apply(table_XD, ids_T, self._encoder.num_items)
        return rows_TD, ids_T, weights_VD

    def encode(self, scored: Scored, *arguments: Any) -> Encoded:
        """Call the encoder; it reads the rows that were taken from its item table, where they were."""
        if self._table is None or scored.read_TD is None:
            encoded: Encoded = self._encoder(*arguments)
        else:
            assert isinstance(self._encoder, nn.Module)
            encoded = torch.func.functional_call(self._encoder, {self._table: scored.read_TD}, arguments,
                                                 tie_weights=False)
        return encoded


class _ReadAndScored(torch.autograd.Function):
    """Some rows of a table, and its rows 1…n. Both gradients become the table's in one pass over it; reading the table
    itself would take one pass for every call of the encoder, and two for the scored rows."""

    @staticmethod
    def forward(ctx: Any, table_XD: Tensor, ids_T: Tensor, num_items: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(ids_T)
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.scored = table_XD.shape, slice(1, num_items + 1)
        return table_XD.index_select(0, ids_T), table_XD[ctx.scored]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, None, None]:
        read_TD, scored_VD = grads
        given = read_TD if scored_VD is None else scored_VD
        if given is None:
            return None, None, None
        if scored_VD is None:
            grad_XD = given.new_zeros(ctx.shape)
        else:
            grad_XD = given.new_empty(ctx.shape)
            grad_XD[: ctx.scored.start] = 0
            grad_XD[ctx.scored] = scored_VD
            grad_XD[ctx.scored.stop :] = 0
        if read_TD is not None:
            grad_XD.index_add_(0, ctx.saved_tensors[0], read_TD)
        return grad_XD, None, None
