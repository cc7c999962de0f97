"""The states of one rank's rows, whichever way their encoder read them: piece by piece, or packed into fewer rows.

Legend: B rows, L positions of a piece, X places of the padded pieces end to end, N chosen places, D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from configs.errors import DataError
from models.packing import Packing, pack
from models.pooling import Pooling
from models.protocols import Encoded


class States(Protocol):
    """What an encoder gave for a batch of pieces."""

    def final_ND(self, places_N: Tensor) -> Tensor:
        """Final states at places of the flattened pieces, end to end."""
        ...

    def pooled_BD(self, pooling: Pooling) -> Tensor:
        """H_k, fp32; zeros for a row without a real position.

        Raises:
            DataError: the encoder gave no states of the layer.
        """
        ...


def encode(encoder: Callable[..., Encoded], inputs_BL: Sequence[Tensor], layer: int | None, packs: bool) -> States:
    """Read a batch.

    Args:
        encoder: called as a ``SequenceEncoder``, or as a ``TransformerEncoder`` where it packs.
        inputs_BL: right-padded pieces; real positions are ``inputs != 0``.
        layer: whose states are pooled; None: nothing will be.
        packs: whether the encoder can read several sequences in one row.
    """
    if not packs:
        return PaddedStates(inputs_BL, [encoder(piece_BL, layer) for piece_BL in inputs_BL])
    packing = pack([(piece_BL != 0).sum(1).cpu().numpy() for piece_BL in inputs_BL],
                   [piece_BL.shape[1] for piece_BL in inputs_BL], inputs_BL[0].device)
    inputs_RW = packing.pack(torch.cat([piece_BL.flatten() for piece_BL in inputs_BL]))
    return PackedStates(inputs_BL, packing, encoder(inputs_RW, layer, packing))


class PaddedStates:
    """States of an encoder that read each piece in one call."""

    def __init__(self, inputs_BL: Sequence[Tensor], encoded: Sequence[Encoded]) -> None:
        self._inputs_BL, self._encoded = inputs_BL, encoded

    def final_ND(self, places_N: Tensor) -> Tensor:
        """See ``States``."""
        return torch.cat([piece.hidden_BLD.flatten(0, 1) for piece in self._encoded]).index_select(0, places_N)

    def pooled_BD(self, pooling: Pooling) -> Tensor:
        """See ``States``."""
        return _pooled(pooling, [_layer(piece) for piece in self._encoded], self._inputs_BL)


class PackedStates:
    """States of an encoder that read all pieces in one call, packed."""

    def __init__(self, inputs_BL: Sequence[Tensor], packing: Packing, encoded: Encoded) -> None:
        self._inputs_BL, self._packing, self._encoded = inputs_BL, packing, encoded

    def final_ND(self, places_N: Tensor) -> Tensor:
        """See ``States``."""
        return self._encoded.hidden_BLD.flatten(0, 1).index_select(0, self._packing.places_X[places_N])

    def pooled_BD(self, pooling: Pooling) -> Tensor:
        """See ``States``."""
        states_XD = _layer(self._encoded).flatten(0, 1)
        if pooling.pad_to is None:
            return pooling.packed(states_XD, self._packing, sum(map(len, self._inputs_BL)))
        padded_XD = states_XD.index_select(0, self._packing.places_X)
        pieces_XD = padded_XD.split([piece_BL.numel() for piece_BL in self._inputs_BL])
        return _pooled(pooling, [piece_XD.view(*piece_BL.shape, -1)
                                 for piece_XD, piece_BL in zip(pieces_XD, self._inputs_BL, strict=True)],
                       self._inputs_BL)


def _layer(encoded: Encoded) -> Tensor:
    """fp32 states of the layer."""
    if encoded.layer_BLD is None:
        raise DataError("a step with alpha above 0 needs an encoder that returns the states of "
                        "train.distillation.layer as Encoded.layer_BLD")
    return encoded.layer_BLD.float()


def _pooled(pooling: Pooling, layers_BLD: Sequence[Tensor], inputs_BL: Sequence[Tensor]) -> Tensor:
    """H_k from padded states, piece by piece."""
    pooled = []
    for layer_BLD, piece_BL in zip(layers_BLD, inputs_BL, strict=True):
        real_BL = piece_BL != 0
        # What an encoder gives for padding is unknown; the pooling wants finite numbers.
        pooled.append(pooling(layer_BLD.masked_fill(~real_BL.unsqueeze(2), 0.0), real_BL))
    return torch.cat(pooled)
