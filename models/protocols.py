"""What the training code asks of a student. Our students satisfy it; so may any other ``nn.Module``.

Legend: B batch, L positions, D hidden width, V items 1…n (no padding row, no [MASK]).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class TrainingInputs(NamedTuple):
    """What the encoder reads, and what it must predict there."""

    inputs_BL: Tensor
    """int64, right-padded with 0."""
    targets_BL: Tensor
    """int64 item ids; 0 = no loss at this position."""


class Encoded(NamedTuple):
    """States of a batch of sequences. Values at padding positions mean nothing."""

    hidden_BLD: Tensor
    """Final states: their inner product with ``item_weights_VD`` scores the items."""
    layer_BLD: Tensor | None
    """States after the block that was asked for."""


@runtime_checkable
class SequenceEncoder(Protocol):
    """A student: a torch module over right-padded item sequences (0 = padding, real positions are ``inputs != 0``)."""

    num_items: int
    """n; item ids are 1…n."""
    max_length: int
    """Most recent items that it sees; a training row may hold one more (the last target)."""
    hidden_dim: int
    """D."""

    def training_inputs(self, items_BL: Tensor, users_B: Tensor, mask_seed: int) -> TrainingInputs:
        """Inputs and targets of training rows; any randomness is a pure function of (mask_seed, user, position)."""
        ...

    def __call__(self, inputs_BL: Tensor, layer: int | None = None) -> Encoded:
        """States of every position; ``layer`` k (0-based) asks for those after block k as well."""
        ...

    def item_weights_VD(self) -> Tensor:
        """Scoring vectors of items 1…n, in id order."""
        ...

    def user_states_BD(self, items_BL: Tensor) -> Tensor:
        """The state that scores each user's next item."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The served parameters (``nn.Module``'s own)."""
        ...
