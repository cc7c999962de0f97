"""Counter-based randomness: the same (seed, user, position) gives the same number in any batch on any rank.

The mixing function is splitmix64's finaliser (Steele, Lea, Flood, OOPSLA'14).
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = 2**64 - 1


def mix(value: int) -> int:
    """A bijection of 64-bit numbers that looks random."""
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)


def derive_seed(*parts: int) -> int:
    """One seed in [0, 2^63) from several counters; every part and their order count."""
    state = 0
    for part in parts:
        state = mix((state + _GOLDEN + part) & _MASK)
    return state >> 1


def position_bits(seed: int, users_B: Tensor, width: int) -> Tensor:
    """int64 [B, width], uniform in [0, 2^63), each a pure function of (seed, user, position)."""
    users_B1 = _mix(users_B.unsqueeze(1) + derive_seed(seed))
    steps_L = torch.arange(1, width + 1, device=users_B.device) * _signed(_GOLDEN)
    return _shift(_mix(users_B1 + steps_L), 1)


def _mix(value: Tensor) -> Tensor:
    """``mix`` on int64 tensors, whose arithmetic wraps like 64-bit numbers."""
    value = (value ^ _shift(value, 30)) * _signed(_FIRST)
    value = (value ^ _shift(value, 27)) * _signed(_SECOND)
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift; int64's own one copies the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
