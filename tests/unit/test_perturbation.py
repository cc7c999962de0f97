"""Perturbed histories are a function of (seed, user, position), and what is left is a history."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.config import PerturbationConfig
from models.perturbation import perturb, uniform


def _rows(lengths: list[int], width: int | None = None) -> Tensor:
    """Rows 1…n, each with its own items, right-padded."""
    rows_BL = torch.zeros(len(lengths), width or max(lengths), dtype=torch.int64)
    for row, length in enumerate(lengths):
        rows_BL[row, :length] = torch.arange(1, length + 1) + 100 * row
    return rows_BL


def test_chances_are_uniform() -> None:
    draws_BL = uniform(3, torch.arange(2000), 50)
    assert float(draws_BL.min()) >= 0 and float(draws_BL.max()) < 1
    assert float(draws_BL.mean()) == pytest.approx(0.5, abs=4 * (1 / 12 / 100_000) ** 0.5)


def test_a_row_does_not_depend_on_the_others() -> None:
    items_BL, users_B = _rows([5, 9, 30, 2, 17]), torch.tensor([3, 8, 1, 12, 40])
    config = PerturbationConfig(drop=0.3, swap=0.5, crop=0.5)
    whole_BL = perturb(items_BL, users_B, config, seed=7)
    chosen = torch.tensor([4, 1])
    alone_BL = perturb(items_BL[chosen, :20], users_B[chosen], config, seed=7)
    assert torch.equal(whole_BL[chosen, :20], alone_BL)


def test_another_seed_perturbs_otherwise_and_the_same_one_alike() -> None:
    items_BL, users_B, config = _rows([30] * 20), torch.arange(20), PerturbationConfig()
    first, again, other = (perturb(items_BL, users_B, config, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_nothing_asked_nothing_changed() -> None:
    items_BL = _rows([1, 2, 30])
    assert torch.equal(perturb(items_BL, torch.arange(3), PerturbationConfig(drop=0, swap=0), 1), items_BL)


def test_dropping_keeps_order_share_and_two_items() -> None:
    lengths = [1, 2, 3] + [40] * 500
    items_BL = _rows(lengths)
    found_BL = perturb(items_BL, torch.arange(len(lengths)), PerturbationConfig(drop=0.3, swap=0), seed=5)
    counts_B = (found_BL != 0).sum(1)
    assert counts_B[:2].tolist() == [1, 2] and int(counts_B[2]) >= 2
    assert float(counts_B[3:].sum()) / (40 * 500) == pytest.approx(0.7, abs=4 * (0.21 / 20_000) ** 0.5)
    for row_L, count in zip(found_BL, counts_B.tolist(), strict=True):
        assert (row_L[:count] != 0).all() and not row_L[count:].any()
        assert (row_L[:count].diff() > 0).all()


def test_swapping_exchanges_two_neighbours_in_a_share_of_the_rows() -> None:
    items_BL = _rows([1, 2] + [6] * 1000)
    found_BL = perturb(items_BL, torch.arange(1002), PerturbationConfig(drop=0, swap=0.2), seed=9)
    moved_BL = found_BL != items_BL
    assert not moved_BL[:2].any()
    assert set(moved_BL.sum(1).tolist()) == {0, 2}
    assert torch.equal(found_BL.sort(1).values, items_BL.sort(1).values)
    assert float(moved_BL.any(1).float().mean()) == pytest.approx(0.2, abs=4 * (0.16 / 1000) ** 0.5)
    assert set(moved_BL.float().argmax(1)[moved_BL.any(1)].tolist()) == {0, 1, 2, 3, 4}


def test_cropping_leaves_a_stretch_of_two_or_more() -> None:
    items_BL = _rows([1, 2] + [8] * 300)
    found_BL = perturb(items_BL, torch.arange(302), PerturbationConfig(drop=0, swap=0, crop=1), seed=9)
    counts_B = (found_BL != 0).sum(1)
    assert counts_B[:2].tolist() == [1, 2]
    assert set(counts_B[2:].tolist()) == set(range(2, 9))
    for row_L, count in zip(found_BL, counts_B.tolist(), strict=True):
        assert (row_L[:count].diff() == 1).all()
