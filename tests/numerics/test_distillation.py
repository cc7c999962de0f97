"""Pooling, the forms of L_distil and the collapse statistics against plain Python loops."""

from __future__ import annotations

from math import exp, log, sqrt

import pytest
import torch

from models.config import (
    AttentionPooling,
    CosineDistillation,
    ExponentialPooling,
    InfoNCEDistillation,
    MeanPooling,
    MSEDistillation,
    PoolingConfig,
    RMSEDistillation,
)
from models.distillation import (
    distillation_loss,
    dynamic_scale,
    mean_variance,
    retrieval_accuracy,
    variance_hinge,
)
from models.pooling import Pooling

Matrix = list[list[float]]
USERS, WIDTH = 6, 4
SIDES = torch.randn(2, USERS, WIDTH, generator=torch.Generator().manual_seed(0))
STUDENT: Matrix = SIDES[0].tolist()
TEACHER: Matrix = SIDES[1].tolist()


def naive_mse() -> float:
    pairs = [(a, b) for h, t in zip(STUDENT, TEACHER, strict=True) for a, b in zip(h, t, strict=True)]
    return sum((a - b) ** 2 for a, b in pairs) / (USERS * WIDTH)


def naive_cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (sqrt(sum(x * x for x in a)) * sqrt(sum(y * y for y in b)))


def naive_infonce(temperature: float) -> float:
    total = 0.0
    for i, h in enumerate(STUDENT):
        scores = [naive_cosine(h, t) / temperature for t in TEACHER]
        total += log(sum(exp(s) for s in scores)) - scores[i]
    return total / USERS


def naive_variance(rows: Matrix) -> list[float]:
    means = [sum(row[d] for row in rows) / len(rows) for d in range(WIDTH)]
    return [sum((row[d] - means[d]) ** 2 for row in rows) / len(rows) for d in range(WIDTH)]


def test_mse() -> None:
    assert float(distillation_loss(MSEDistillation(), *SIDES)) == pytest.approx(naive_mse(), rel=1e-5)


def test_rmse() -> None:
    assert float(distillation_loss(RMSEDistillation(), *SIDES)) == pytest.approx(sqrt(naive_mse()), rel=1e-5)


def test_cosine() -> None:
    mean = sum(naive_cosine(h, t) for h, t in zip(STUDENT, TEACHER, strict=True)) / USERS
    assert float(distillation_loss(CosineDistillation(), *SIDES)) == pytest.approx(1 - mean, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_infonce(temperature: float) -> None:
    loss = distillation_loss(InfoNCEDistillation(temperature=temperature), *SIDES)
    assert float(loss.detach()) == pytest.approx(naive_infonce(temperature), rel=1e-5)


def test_rmse_gradient_is_that_of_mse_over_twice_the_root() -> None:
    student = SIDES[0].clone().requires_grad_()
    (mse_grad,) = torch.autograd.grad(distillation_loss(MSEDistillation(), student, SIDES[1]), student)
    (rmse_grad,) = torch.autograd.grad(distillation_loss(RMSEDistillation(), student, SIDES[1]), student)
    torch.testing.assert_close(rmse_grad, mse_grad / (2 * sqrt(naive_mse())))


@pytest.mark.parametrize("config", [MSEDistillation(), RMSEDistillation(), CosineDistillation(),
                                    InfoNCEDistillation()], ids=lambda c: c.kind)
@pytest.mark.parametrize("rows", [1, USERS])
def test_equal_sides_have_a_finite_gradient(config: MSEDistillation, rows: int) -> None:
    student = SIDES[0, :rows].clone().requires_grad_()
    loss = distillation_loss(config, student, SIDES[0, :rows])
    loss.backward()
    assert student.grad is not None and torch.isfinite(student.grad).all()
    assert float(loss.detach()) == pytest.approx(0.0, abs=2e-4) or isinstance(config, InfoNCEDistillation)


def test_dynamic_scale() -> None:
    ranking, distillation = torch.tensor(9.0, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    assert float(dynamic_scale(ranking, distillation, None)) == 9.0 / 0.5
    assert float(dynamic_scale(ranking, distillation, 10.0)) == 10.0
    assert not dynamic_scale(ranking, distillation, None).requires_grad
    assert torch.isfinite(dynamic_scale(ranking, torch.tensor(0.0), None))


def test_variance_hinge() -> None:
    shrunk: Matrix = (SIDES[1] * 0.5).tolist()
    expected = sum(max(0.0, 1 - sqrt(v + 1e-4)) for v in naive_variance(shrunk)) / WIDTH
    assert float(variance_hinge(SIDES[1] * 0.5)) == pytest.approx(expected, rel=1e-5)
    assert float(variance_hinge(SIDES[1] * 100)) == 0.0
    constant = torch.ones(3, WIDTH, requires_grad=True)
    variance_hinge(constant).backward()
    assert constant.grad is not None and torch.isfinite(constant.grad).all()


def test_mean_variance() -> None:
    assert float(mean_variance(SIDES[0])) == pytest.approx(sum(naive_variance(STUDENT)) / WIDTH, rel=1e-5)
    assert float(mean_variance(torch.ones(4, WIDTH))) == 0.0


def test_retrieval_accuracy() -> None:
    hits = [max(range(USERS), key=lambda j: naive_cosine(h, TEACHER[j])) == i for i, h in enumerate(STUDENT)]
    assert float(retrieval_accuracy(*SIDES)) == pytest.approx(sum(hits) / USERS)
    assert float(retrieval_accuracy(SIDES[0], SIDES[0] * 3)) == 1.0


@pytest.mark.parametrize("config", [MeanPooling(), ExponentialPooling(gamma=-0.4), ExponentialPooling(gamma=0.1),
                                    AttentionPooling()], ids=lambda c: f"{c.kind}{getattr(c, 'gamma', '')}")
def test_pooling_equals_loops(config: PoolingConfig) -> None:
    torch.manual_seed(1)
    lengths, hidden_BLD = [5, 1, 3], torch.randn(3, 5, WIDTH)
    pooling = Pooling(config, WIDTH)
    for parameter in pooling.parameters():
        torch.nn.init.normal_(parameter)
    expected = []
    for states, length in zip(hidden_BLD.tolist(), lengths, strict=True):
        weights = []
        for step in range(length):
            score = 0.0
            if isinstance(config, ExponentialPooling):
                score = config.gamma * (step + 1)
            if pooling.attention is not None:
                score = sum(w * h for w, h in zip(pooling.attention.weight[0].tolist(), states[step], strict=True))
                score += pooling.attention.bias.item()
            weights.append(exp(score))
        expected.append([sum(w * states[t][d] for t, w in enumerate(weights)) / sum(weights) for d in range(WIDTH)])
    real_BL = torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    torch.testing.assert_close(pooling(hidden_BLD, real_BL), torch.tensor(expected))
