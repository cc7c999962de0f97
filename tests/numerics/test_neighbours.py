"""The store of neighbours' states and its losses against a plain dense computation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from configs.errors import DataError
from models.config import (
    CosineDistillation,
    DistillationConfig,
    InfoNCEDistillation,
    MSEDistillation,
    NeighboursTarget,
    SASRecConfig,
    SoftmaxLoss,
)
from models.distilled import DistilledRecommender
from models.neighbours import NeighbourStates
from models.sequences import Batch
from models.students import build_encoder
from pipeline.train.neighbours import read_neighbours, write_neighbours
from tests.vectors import built

USERS, NEAR = torch.tensor([3, 5, 8, 9, 20]), torch.tensor([[1, 2], [0, 4], [3, 1], [2, 4], [0, 1]])
ITEMS = 20
LOSSES = pytest.mark.parametrize("loss", [
    MSEDistillation(), CosineDistillation(), InfoNCEDistillation(temperature=0.5)], ids=lambda c: c.kind)


def recommender(loss: MSEDistillation) -> DistilledRecommender:
    config = DistillationConfig(loss=loss, layer=0, target=NeighboursTarget(neighbours=2))
    encoder = build_encoder(SASRecConfig(hidden_dim=8, max_length=6, dropout=0.0), ITEMS, 0)
    return DistilledRecommender(encoder, SoftmaxLoss(), config, 0, 0, 0, neighbours=NeighbourStates(USERS, NEAR, 8))


def batch(*users: int, seed: int = 0) -> Batch:
    items_BL = torch.randint(1, ITEMS + 1, (len(users), 5), generator=torch.Generator().manual_seed(seed))
    return Batch(torch.tensor(users), items_BL)


def states(model: DistilledRecommender, given: Batch) -> torch.Tensor:
    """H_0 of the rows, mean over the positions that the model reads."""
    layer_BLD = model.encoder(given.items_BL[:, :-1], 0).layer_BLD
    assert layer_BLD is not None
    return layer_BLD.mean(1)


def dense(loss: MSEDistillation, own: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    if isinstance(loss, CosineDistillation):
        return 1 - (F.normalize(own) * F.normalize(mean)).sum(1).mean()
    if isinstance(loss, InfoNCEDistillation):
        scores = F.normalize(own) @ F.normalize(mean).T / loss.temperature
        return (scores.logsumexp(1) - scores.diagonal()).mean()
    return ((own - mean) ** 2).mean()


@LOSSES
def test_a_step_draws_to_the_kept_states_of_neighbours_and_no_gradient_reaches_them(loss: MSEDistillation) -> None:
    model = recommender(loss)
    first, second = batch(3, 5, 8, 7), batch(9, 5, 3, 20, seed=1)
    nobody = model(first, alpha=0.5)
    assert (nobody.num_profiled, float(nobody.distillation)) == (0, 0.0)  # no neighbour has been read yet
    kept = states(model, first).detach()  # of 3, 5, 8; user 7 has no profile
    terms = model(second, alpha=1.0)
    assert terms.num_profiled == 4
    # 9 has 8 (20 is unread), 5 has 3 (20 is unread), 3 has 5 and 8, 20 has 3 and 5.
    mean = torch.stack([kept[2], kept[0], (kept[1] + kept[2]) / 2, (kept[0] + kept[1]) / 2])
    own = states(model, second)
    expected = dense(loss, own, mean)
    torch.testing.assert_close(terms.distillation, expected.detach(), rtol=1e-5, atol=1e-6)
    parameters = list(model.encoder.parameters())  # type: ignore[attr-defined]
    wanted = torch.autograd.grad(expected, parameters, allow_unused=True)
    found = torch.autograd.grad(terms.total, parameters, allow_unused=True)
    for value, reference, parameter in zip(found, wanted, parameters, strict=True):
        none = torch.zeros_like(parameter)
        torch.testing.assert_close(none if value is None else value, none if reference is None else reference,
                                   rtol=1e-4, atol=1e-6)
    assert any(reference is not None and reference.abs().max() > 1e-3 for reference in wanted)
    assert model.neighbours is not None
    torch.testing.assert_close(model.neighbours.states_RD[[3, 1, 0, 4]], own.detach())  # the newest are kept
    torch.testing.assert_close(model.neighbours.states_RD[2], kept[2])


def test_the_store_is_training_state_and_no_parameter() -> None:
    model = recommender(MSEDistillation())
    model(batch(3, 5), alpha=0.5)
    again = recommender(MSEDistillation())
    again.load_state_dict(model.state_dict())
    assert model.neighbours is not None and again.neighbours is not None
    assert torch.equal(again.neighbours.states_RD, model.neighbours.states_RD)
    assert again.neighbours.seen_R.tolist() == [True, True, False, False, False]
    assert list(model.teacher_parameters()) == []


def test_neighbours_are_those_of_a_full_matrix(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    users = np.arange(0, 80, 2)
    vectors = rng.normal(size=(60, 5)).astype(np.float32)
    rows = [(int(u), "a") for u in users] + [(int(u), "b") for u in users[:20]]
    given = sorted((u, a, v) for (u, a), v in zip(rows, vectors.tolist(), strict=True))
    targets, _ = built(given, users, tmp_path)
    write_neighbours(targets, 4, tmp_path / "n.safetensors")
    found, near = read_neighbours(tmp_path / "n.safetensors")
    mean = np.concatenate([(vectors[:20] + vectors[40:]) / 2, vectors[20:40]]).astype(float)
    unit = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -2)
    assert np.array_equal(found, users) and np.array_equal(near, np.argsort(-similarity, axis=1)[:, :4])
    write_neighbours(targets, 100, tmp_path / "all.safetensors")
    assert read_neighbours(tmp_path / "all.safetensors")[1].shape == (40, 39)


def test_twins_are_neighbours_and_nobody_is_their_own(tmp_path: Path) -> None:
    rows = [(0, "a", [1.0, 0]), (1, "a", [1.0, 0]), (2, "a", [0, 1.0])]

    def write(count: int) -> None:
        write_neighbours(built(rows[:count], np.arange(count), tmp_path)[0], 1, tmp_path / "n.safetensors")

    write(3)
    near = read_neighbours(tmp_path / "n.safetensors")[1][:, 0]
    assert near[:2].tolist() == [1, 0] and near[2] in (0, 1)
    with pytest.raises(DataError, match="2 or more"):
        write(1)
