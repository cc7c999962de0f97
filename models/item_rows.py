"""The item table in a training step: the rows that the encoder reads, and those that its states are scored against.

Legend: B batch, L positions, N positions with a target, T rows that are read, X rows that are scored against,
V items 1…n.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from models.base import ITEM_PARAMETER, Student
from models.item_table import ItemTable
from models.negatives import Negatives
from models.profile_reader import with_users
from models.protocols import Encoded, SequenceEncoder
from models.rowwise import RowwiseTable


class LookUp(NamedTuple):
    """What one rank reads in a step, and what its states are scored against."""

    encode: Callable[..., Encoded]
    """The encoder, called with ``inputs_BL`` or what they are packed into."""
    inputs_BL: list[Tensor]
    """Item ids, or their rows in the part of the table that ``encode`` reads; 0 is padding in both."""
    weights_XD: Tensor
    """Scoring vectors."""
    rows_N: Tensor
    """The targets, as rows of ``weights_XD``."""
    negatives: Negatives | None
    """Likewise."""


class ItemRows(Protocol):
    """Looks up what a step needs of an encoder's item table."""

    def look_up(self, inputs_BL: list[Tensor], targets_N: Tensor, negatives: Negatives | None,
                added_BD: Tensor | None = None) -> LookUp:
        """``inputs_BL``, ``targets_N`` and ``negatives`` hold item ids; with negatives, every rank must call it.
        ``added_BD``: a vector per sequence that is added to its items as they are read, not as they are scored."""
        ...


class ForeignRows:
    """Of an encoder that is not ours: it reads a table of its own, whatever that is, and is asked for all its scoring
    vectors."""

    def __init__(self, encoder: SequenceEncoder) -> None:
        self._encoder = encoder

    def look_up(self, inputs_BL: list[Tensor], targets_N: Tensor, negatives: Negatives | None,
                added_BD: Tensor | None = None) -> LookUp:
        """See ``ItemRows``."""
        assert added_BD is None, "only our own students read profiles"
        located = None if negatives is None else negatives.located(negatives.items_K - 1)
        return LookUp(self._encoder, inputs_BL, self._encoder.item_weights_VD(), targets_N - 1, located)


class TakenRows(NamedTuple):
    """Some rows of an item table."""

    read_TD: Tensor
    """Those that were named."""
    ids_T: Tensor
    """int64, ascending: where they stand in the table."""
    catalogue_VD: Tensor
    """Rows 1…n, for a loss over the whole catalogue."""


class GivenRows:
    """Of an encoder whose table is known: it is given exactly the rows that a step names, in the table's place."""

    def __init__(self, encoder: SequenceEncoder, name: str) -> None:
        """``name``: of the parameter whose row i is item i."""
        assert isinstance(encoder, nn.Module)
        self._module, self._name = encoder, name

    def look_up(self, inputs_BL: list[Tensor], targets_N: Tensor, negatives: Negatives | None,
                added_BD: Tensor | None = None) -> LookUp:
        """See ``ItemRows``."""
        # 0 is always among them, so padding stays row 0.
        named = [targets_N.new_zeros(1), *(piece_BL.flatten() for piece_BL in inputs_BL)]
        if negatives is not None:
            named += [targets_N, negatives.items_K]
        taken = self.take(torch.cat(named))
        inputs_BL = [torch.searchsorted(taken.ids_T, piece_BL.contiguous()) for piece_BL in inputs_BL]
        read_TD = taken.read_TD
        if added_BD is not None:
            read_TD, inputs_BL = with_users(read_TD, inputs_BL, added_BD)
        encode = partial(self._encode, read_TD)
        if negatives is None:
            return LookUp(encode, inputs_BL, taken.catalogue_VD, targets_N - 1, None)
        rows_N, rows_K = (torch.searchsorted(taken.ids_T, ids) for ids in (targets_N, negatives.items_K))
        return LookUp(encode, inputs_BL, taken.read_TD, rows_N, negatives.located(rows_K))

    def take(self, ids: Tensor) -> TakenRows:
        """The table's rows that ``ids`` name, each once."""
        raise NotImplementedError

    def _encode(self, read_TD: Tensor, *arguments: Any) -> Encoded:
        encoded: Encoded = torch.func.functional_call(self._module, {self._name: read_TD}, arguments,
                                                      tie_weights=False)
        return encoded


class StudentRows(GivenRows):
    """Of a student of ours, whose table is trained whole."""

    def __init__(self, encoder: Student, computed: ItemTable | None = None) -> None:
        """``computed``: the table that is read and scored in place of the student's own."""
        super().__init__(encoder, ITEM_PARAMETER)
        self._encoder, self._computed = encoder, computed

    def take(self, ids: Tensor) -> TakenRows:
        """See ``GivenRows``."""
        ids_T = ids.unique()
        table_XD = self._encoder.item_embedding.weight if self._computed is None else self._computed()
        read_TD, catalogue_VD = _ReadAndScored.apply(table_XD, ids_T, self._encoder.num_items)
        return TakenRows(read_TD, ids_T, catalogue_VD)


class RowwiseRows(GivenRows):
    """Of any encoder whose table is trained row by row; the gradient of its rows stays there."""

    def __init__(self, encoder: SequenceEncoder, table: RowwiseTable) -> None:
        super().__init__(encoder, table.name)
        self._table = table

    def take(self, ids: Tensor) -> TakenRows:
        """See ``GivenRows``. There is no whole catalogue: rows that are not read rest behind the present step, or lie
        on other devices."""
        read_TD, ids_T = self._table.take(ids)
        return TakenRows(read_TD, ids_T, read_TD[:0])


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
