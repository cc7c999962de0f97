"""Counter-based random bits."""

from __future__ import annotations

import torch

from models.hashing import derive_seed, mix, position_bits


def test_tensor_arithmetic_equals_python_integers() -> None:
    users_B = torch.tensor([0, 7, 2**40])
    bits_BL = position_bits(11, users_B, 3)
    modulus, golden = 2**64, 0x9E3779B97F4A7C15
    for row, user in enumerate(users_B.tolist()):
        key = mix((user + derive_seed(11)) % modulus)
        for column in range(3):
            assert bits_BL[row, column] == mix((key + (column + 1) * golden) % modulus) >> 1


def test_bits_are_uniform() -> None:
    shares = (position_bits(0, torch.arange(1000), 50).double() / 2**63).flatten()
    assert abs(shares.mean() - 0.5) < 0.005
    assert abs(shares.var() - 1 / 12) < 0.002
    assert len(shares.unique()) == 50_000


def test_bits_depend_on_seed_user_and_position_alone() -> None:
    alone = position_bits(3, torch.tensor([5]), 4)
    among = position_bits(3, torch.tensor([9, 5, 1]), 40)
    assert torch.equal(alone[0], among[1, :4])
    assert not torch.equal(position_bits(4, torch.tensor([5]), 4), alone)


def test_derived_seeds_differ_and_depend_on_order() -> None:
    seeds = {derive_seed(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, 2) != derive_seed(2, 1)
