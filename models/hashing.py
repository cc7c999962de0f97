"""Counter-based randomness: the same (seed, user, position) gives the same number in any batch on any rank."""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from models.splitmix import MASK, STEP, finalise


def mix(value: int) -> int:
    """A bijection of 64-bit numbers that looks random."""
    return finalise(value, operator.rshift, lambda factor, constant: factor * constant & MASK, operator.xor)


def derive_seed(*parts: int) -> int:
    """One seed in [0, 2^63) from several counters; every part and their order count."""
    state = 0
    for part in parts:
        state = mix((state + STEP + part) & MASK)
    return state >> 1


def position_bits(seed: int, users_B: Tensor, width: int) -> Tensor:
    """int64 [B, width], uniform in [0, 2^63), each a pure function of (seed, user, position)."""
    users_B1 = _mix(users_B.unsqueeze(1) + derive_seed(seed))
    steps_L = torch.arange(1, width + 1, device=users_B.device) * _signed(STEP)
    return _shift(_mix(users_B1 + steps_L), 1)


def _mix(value: Tensor) -> Tensor:
    """``mix`` on int64 tensors, whose arithmetic wraps like 64-bit numbers."""
    return finalise(value, _shift, lambda factor, constant: factor * _signed(constant), torch.bitwise_xor)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift; int64's own one copies the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
