"""Counter-based random bits."""

from __future__ import annotations

import numpy as np
import torch

from models.hashing import derive_seed, mix, position_bits
from models.splitmix import MASK, STEP
from pipeline.prepare.hashing import hashes


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


def test_arrays_and_integers_are_mixed_alike() -> None:
    values = [0, 1, 2**40 + 7, 2**63 - 1]
    start = mix((mix((5 + STEP) & MASK) + 1 + STEP) & MASK)  # seed 5, the first purpose
    assert hashes(np.array(values), 5, "ties").tolist() == [mix((value + start + STEP) & MASK) for value in values]


def test_numbers_stay_what_they_were() -> None:
    assert mix(1) == 6238072747940578789
    assert hashes(np.array([0, 1, 7]), 5, "ties").tolist() == [
        11896831165054609744, 16949110861576774251, 1924701561401222501]
    assert position_bits(3, torch.tensor([5]), 2).tolist() == [[640038423080149460, 4190857485349991439]]
