"""The mixing function of splitmix64 (Steele, Lea, Flood, OOPSLA'14), a bijection of 64-bit numbers that looks random.

Written once for Python's integers, NumPy's arrays and tensors, which differ in how they shift and multiply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

Number = TypeVar("Number")

STEP: Final = 0x9E3779B97F4A7C15
"""What the state grows by between two numbers of a sequence."""
MASK: Final = 2**64 - 1


def finalise(value: Number, shifted: Callable[[Number, int], Number], times: Callable[[Number, int], Number],
             xor: Callable[[Number, Number], Number]) -> Number:
    """The mixed value.

    Args:
        shifted: the value shifted right by some bits, zeros filled in.
        times: the value times a constant, modulo 2^64.
        xor: the exclusive or of two values.
    """
    value = times(xor(value, shifted(value, 30)), 0xBF58476D1CE4E5B9)
    value = times(xor(value, shifted(value, 27)), 0x94D049BB133111EB)
    return xor(value, shifted(value, 31))
