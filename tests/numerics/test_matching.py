"""The tiled matching loss against the dense formula and autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import matching
from models.history_scores import Links, Votes
from models.matching import TeacherScores, match


def _inputs(positions: int, items: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, TeacherScores]:
    generator = torch.Generator().manual_seed(positions * 1000 + items)
    hidden_ND, weights_VD = (torch.randn(n, 16, generator=generator) * scale for n in (positions, items))
    states_NE, table_VE = (torch.randn(n, 24, generator=generator) * scale for n in (positions, items))
    rows_N = torch.randint(0, items, (positions,), generator=generator)
    return hidden_ND.requires_grad_(), weights_VD.requires_grad_(), rows_N, TeacherScores(states_NE, table_VE)


def _dense(hidden_ND: Tensor, weights_VD: Tensor, rows_N: Tensor, teaching: TeacherScores, weight: float, tau: float
           ) -> tuple[Tensor, Tensor, Tensor]:
    scores_NV = (hidden_ND @ weights_VD.T).double()
    teacher_NV = (teaching.states_NE @ teaching.table_VE.T).double()
    ranking = F.cross_entropy(scores_NV, rows_N, reduction="sum")
    divergence = F.kl_div((scores_NV / tau).log_softmax(1), (teacher_NV / tau).log_softmax(1), reduction="sum",
                          log_target=True) * tau**2
    return (1 - weight) * ranking + weight * divergence, ranking, divergence


@pytest.mark.parametrize(("positions", "items"), [(1, 1), (1, 7), (70, 300), (129, 1000), (300, 77)])
@pytest.mark.parametrize(("weight", "tau"), [(1.0, 1.0), (0.7, 1.0), (1.0, 2.0), (0.4, 0.5), (0.0, 1.0), (0.0, 2.0)])
@pytest.mark.parametrize("cells", [2**20, 64 * 128])
def test_value_and_gradients_are_those_of_the_dense_loss(
    positions: int, items: int, weight: float, tau: float, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(matching._TILE_CELLS, "cpu", cells)
    hidden_ND, weights_VD, rows_N, teaching = _inputs(positions, items)
    expected = _dense(hidden_ND, weights_VD, rows_N, teaching, weight, tau)
    wanted = torch.autograd.grad(3 * expected[0], (hidden_ND, weights_VD))
    found = match(hidden_ND, weights_VD, rows_N, teaching, weight, tau)
    gradients = torch.autograd.grad(3 * found.objective, (hidden_ND, weights_VD))
    if not weight:  # a divergence that does not count is told at τ = 1
        expected = (*expected[:2], _dense(hidden_ND, weights_VD, rows_N, teaching, weight, 1.0)[2])
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(value.double(), reference.detach(), rtol=1e-5, atol=1e-4)
    for gradient, reference in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("positions", "items"), [(1, 7), (70, 300), (129, 1000)])
@pytest.mark.parametrize(("weight", "tau"), [(1.0, 1.0), (0.4, 2.0)])
@pytest.mark.parametrize("cells", [2**20, 64 * 128])
@pytest.mark.parametrize("size", [1.0, 200.0])
def test_votes_count_beside_the_products(positions: int, items: int, weight: float, tau: float, cells: int, size: float,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of an item that is voted for twice, of places without votes, and beyond what a power of them can hold."""
    monkeypatch.setitem(matching._TILE_CELLS, "cpu", cells)
    hidden_ND, weights_VD, rows_N, teaching = _inputs(positions, items)
    generator = torch.Generator().manual_seed(1)
    counts_N = torch.randint(0, 5, (positions,), generator=generator)
    counts_N[0] = 4
    offsets_V = torch.zeros(items + 1, dtype=torch.int64)
    offsets_V[1:] = torch.randint(0, 4, (items,), generator=generator).cumsum(0)
    links = Links.of(offsets_V, torch.randint(0, items, (int(offsets_V[-1]),), generator=generator),
                     torch.rand(int(offsets_V[-1]), generator=generator) * size)
    voters_M = torch.randint(0, items, (int(counts_N.sum()),), generator=generator)
    votes = Votes(counts_N, voters_M, torch.rand(len(voters_M), generator=generator), links)
    added_NV = torch.zeros(positions, items)
    for place, voter, weight in zip(torch.arange(positions).repeat_interleave(counts_N), voters_M, votes.weights_M,
                                    strict=True):
        for link in range(offsets_V[voter], offsets_V[voter + 1]):
            added_NV[place, links.rows_K[link]] += weight * links.scores_K[link]
    same = TeacherScores(torch.cat([teaching.states_NE, added_NV], 1),
                         torch.cat([teaching.table_VE, torch.eye(items)], 1))
    expected = _dense(hidden_ND, weights_VD, rows_N, same, weight, tau)
    wanted = torch.autograd.grad(expected[0], (hidden_ND, weights_VD))
    parts = [votes._replace(weights_M=votes.weights_M * share) for share in (0.25, 0.75)]
    found = match(hidden_ND, weights_VD, rows_N, teaching._replace(votes=parts), weight, tau)
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(value.double(), reference.detach(), rtol=1e-4, atol=1e-3)
    for gradient, reference in zip(torch.autograd.grad(found.objective, (hidden_ND, weights_VD)), wanted, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-3)


def test_large_scores_neither_overflow_nor_vanish() -> None:
    hidden_ND, weights_VD, rows_N, teaching = _inputs(40, 200, scale=12.0)
    expected = _dense(hidden_ND, weights_VD, rows_N, teaching, 1.0, 1.0)
    found = match(hidden_ND, weights_VD, rows_N, teaching, 1.0)
    assert float(found.matching) == pytest.approx(float(expected[2].detach()), rel=1e-4)


@pytest.mark.parametrize("tau", [0.3, 0.1])
@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize("scale", [1.0, 2.3])
def test_a_small_temperature_neither_overflows_nor_vanishes(tau: float, weight: float, scale: float) -> None:
    """Scores of 30, whose powers fit, are 300 at τ = 0.1."""
    hidden_ND, weights_VD, rows_N, teaching = _inputs(40, 200)
    hidden_ND, weights_VD, teaching = (
        (hidden_ND.detach() * scale / 2).requires_grad_(), (weights_VD.detach() * scale / 2).requires_grad_(),
        TeacherScores(teaching.states_NE * scale / 2, teaching.table_VE * scale / 2))
    expected = _dense(hidden_ND, weights_VD, rows_N, teaching, weight, tau)
    wanted = torch.autograd.grad(expected[0], (hidden_ND, weights_VD))
    found = match(hidden_ND, weights_VD, rows_N, teaching, weight, tau)
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(value.double(), reference.detach(), rtol=1e-4, atol=1e-3)
    for gradient, reference in zip(torch.autograd.grad(found.objective, (hidden_ND, weights_VD)), wanted, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-3, atol=1e-3)


def test_a_student_that_agrees_with_its_teacher_learns_nothing() -> None:
    hidden_ND, weights_VD, rows_N, _ = _inputs(50, 90)
    found = match(hidden_ND, weights_VD, rows_N, TeacherScores(hidden_ND.detach(), weights_VD.detach()), 1.0)
    gradients = torch.autograd.grad(found.objective, (hidden_ND, weights_VD))
    assert float(found.matching) == pytest.approx(0, abs=1e-4)
    assert max(float(g.abs().max()) for g in gradients) < 1e-5


def test_the_mean_logits_of_two_members_are_one_wider_member() -> None:
    """(h1·w1 + h2·w2) / 2 is one product of the states side by side."""
    hidden_ND, weights_VD, rows_N, first = _inputs(30, 60)
    second = TeacherScores(first.states_NE.flip(0), first.table_VE.flip(0))
    mean_NV = (first.states_NE @ first.table_VE.T + second.states_NE @ second.table_VE.T) / 2
    both = TeacherScores(torch.cat([first.states_NE, second.states_NE], 1) / 2,
                    torch.cat([first.table_VE, second.table_VE], 1))
    eye = TeacherScores(mean_NV, torch.eye(60))
    together, dense = (match(hidden_ND, weights_VD, rows_N, x, 1.0).matching for x in (both, eye))
    torch.testing.assert_close(together, dense, rtol=1e-5, atol=1e-4)
