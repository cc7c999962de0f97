"""Every student with every loss on a device against the CPU: values, gradients, later steps, user states, ranks, lists.

Legend: B users, D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from models.config import BERT4RecConfig, ESASRecConfig, GRU4RecConfig, ModelConfig, SASRecConfig
from models.matching import TeacherScores, match
from models.ranking import rank_users, recommend
from models.scoring import EncoderScorer
from models.sequences import Cases
from models.students import build_encoder
from tests.gpu.training import Task, Training, train_config
from tests.sequences import generate

SHAPE: dict[str, Any] = {"hidden_dim": 32, "max_length": 20, "dropout": 0.0}
STUDENTS: dict[str, ModelConfig] = {
    "sasrec": SASRecConfig(num_heads=2, **SHAPE),
    "sasrec, padding keys": SASRecConfig(num_heads=2, padding_keys=True, **SHAPE),
    "esasrec": ESASRecConfig(num_heads=2, **SHAPE),
    "bert4rec": BERT4RecConfig(num_heads=2, **SHAPE),
    "gru4rec": GRU4RecConfig(num_blocks=2, **SHAPE),
}
LOSSES: dict[str, dict[str, Any]] = {
    "softmax": {"kind": "softmax"},
    "sampled_softmax": {"kind": "sampled_softmax", "negatives": 64, "source": "popularity"},
    "bce": {"kind": "bce", "negatives": 64, "source": "in_batch"},
    "gbce": {"kind": "gbce", "negatives": 64},
}
ITEMS = 500
SAME_RANKS = 0.98
"""Share of users whose target has the same rank: near ties may fall otherwise in another order of summation."""


@dataclass(frozen=True)
class Tolerance:
    """Largest relative errors."""

    value: float
    """Of each of a step's numbers."""
    gradient: float
    """Of each parameter's gradient, as a vector; one that is all but zero is measured against the whole gradient."""
    later: float
    """Of L_model after further steps: Adam divides by gradients that are nearly 0 and so enlarges differences."""


TOLERANCES: dict[str, Tolerance] = {"fp32": Tolerance(1e-5, 1e-4, 1e-3), "bf16": Tolerance(2e-2, 1e-1, 5e-2)}
"""bf16 on a GPU (autocast in the encoder, TF32 in the loss) against fp32 on the CPU."""
STATES_TOLERANCE = 1e-5
COUNTED = "retrieval"
"""A share of users, in whole users, that near ties decide."""
_SMALL = 1e-3
"""Share of the whole gradient's norm below which a parameter's own is all but zero."""


@dataclass(frozen=True)
class Compared:
    """One comparison; errors are relative."""

    errors: dict[str, float]
    ok: bool
    worst: str = ""
    """The parameter whose gradient is furthest off."""


def comparisons(device: torch.device, steps: int) -> Iterator[tuple[str, Callable[[], Compared]]]:
    """Every student × loss in fp32, with the full softmax in bf16, then states, matching, ranks, lists. Dropout is off.

    ``steps``: of each training, one at least.
    """
    task = Task.of(generate(96, ITEMS, mean_length=8.0), ITEMS)
    for student, model in STUDENTS.items():
        for loss, settings in LOSSES.items():
            yield f"{student}, {loss}", partial(training, task, model, device, steps, loss=settings)
        rows = {"loss": LOSSES["sampled_softmax"], "optimizer": {"table": "rowwise"}}
        yield f"{student}, sampled_softmax, rowwise", partial(training, task, model, device, steps, **rows)
        yield f"{student}, softmax, bf16", partial(training, task, model, device, steps, "bf16")
        yield f"{student}, user states", partial(states, task, model, device)
    for temperature in (1.0, 2.0):
        yield f"matching, τ {temperature:g}", partial(matching, device, temperature)
    yield "ranks", partial(ranks, task, device)
    yield "recommendations", partial(recommendations, task, device)


def training(task: Task, model: ModelConfig, device: torch.device, steps: int,
             precision: Literal["fp32", "bf16"] = "fp32", **settings: Any) -> Compared:
    """A distilled student's first step and the loss of some more."""
    common = {"distillation": {"layer": 1, "pooling": {"kind": "exponential"}}, "batch_size": 64} | settings
    reference = _steps(Training(task, model, train_config(**common), "distilled", torch.device("cpu")), steps)
    found = _steps(Training(task, model, train_config(**common, precision=precision), "distilled", device), steps)
    gradients = gradient_errors(reference.gradients, found.gradients)
    worst = max(gradients, key=gradients.__getitem__)
    errors = {
        "value": max(_relative(found.first[name], value) for name, value in reference.first.items()
                     if name != COUNTED),
        "gradient": gradients[worst],
        "later": max(_relative(a, b) for a, b in zip(found.later, reference.later, strict=True)),
    }
    return Compared(errors, within(errors, asdict(TOLERANCES[precision])), worst)


def states(task: Task, model: ModelConfig, device: torch.device) -> Compared:
    """What a served student says of its users."""
    cpu, other = (EncoderScorer(build_encoder(model, task.num_items, 0), where).states(
        task.sequences, np.arange(len(task.sequences))).cpu() for where in ("cpu", device))
    error = float(((cpu - other).norm(dim=1) / cpu.norm(dim=1)).max())
    return Compared({"states": error}, within({"states": error}, {"states": STATES_TOLERANCE}))


def matching(device: torch.device, temperature: float) -> Compared:
    """A teacher's softmax over the whole catalogue, matched by random states."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(rows, width, generator=generator) for rows, width in
              ((200, 32), (ITEMS, 32), (200, 48), (ITEMS, 48))]
    targets_N = torch.randint(ITEMS, (200,), generator=generator)

    def matched(where: torch.device) -> tuple[list[float], dict[str, Tensor]]:
        hidden_ND, weights_VD, states_NE, table_VE = (x.detach().to(where) for x in inputs)
        leaves = {"states": hidden_ND.requires_grad_(), "table": weights_VD.requires_grad_()}
        found = match(hidden_ND, weights_VD, targets_N.to(where), TeacherScores(states_NE, table_VE), 0.7, temperature)
        found.objective.backward()
        return [float(value.detach()) for value in found], {name: leaf.grad.cpu() for name, leaf in leaves.items()}

    (values, gradients), (others, other_gradients) = matched(torch.device("cpu")), matched(device)
    by_input = gradient_errors(gradients, other_gradients)
    errors = {"value": max(map(_relative, others, values)), "gradient": max(by_input.values())}
    return Compared(errors, within(errors, asdict(TOLERANCES["fp32"])), max(by_input, key=by_input.__getitem__))


def ranks(task: Task, device: torch.device) -> Compared:
    """Ranks on the device against the exact ones."""
    targets = np.random.default_rng(0).integers(1, ITEMS + 1, len(task.sequences)).astype(np.int32)
    cases = Cases(np.arange(len(task.sequences)), task.sequences, targets)
    cpu, other = (rank_users(EncoderScorer(build_encoder(STUDENTS["sasrec"], ITEMS, 0), where), cases, item_chunk=200)
                  for where in ("cpu", device))
    differing = {name: float((getattr(cpu, name) != getattr(other, name)).mean())
                 for name in ("rank", "rank_unfiltered", "top", "top_unfiltered")}
    return Compared(differing, within(differing, dict.fromkeys(differing, 1 - SAME_RANKS)))


def recommendations(task: Task, device: torch.device) -> Compared:
    """Lists of a student on the device against those of the CPU; both are ordered exactly, from their own states."""
    cpu, other = (recommend(EncoderScorer(build_encoder(STUDENTS["sasrec"], ITEMS, 0), where), task.sequences,
                            10).items_NK
                  for where in ("cpu", device))
    differing = {"items": float((cpu != other).mean())}
    return Compared(differing, within(differing, {"items": 1 - SAME_RANKS}))


def within(errors: dict[str, float], tolerances: dict[str, float]) -> bool:
    """Whether no error is too large; NaN is."""
    return all(error <= tolerances[name] for name, error in errors.items())


def gradient_errors(reference: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, float]:
    """Relative error of each parameter's gradient."""
    least = _SMALL * float(torch.stack([gradient.norm() for gradient in reference.values()]).norm())
    return {name: float((found[name] - gradient).norm()) / max(float(gradient.norm()), least)
            for name, gradient in reference.items()}


@dataclass(frozen=True)
class _Steps:
    first: dict[str, float]
    gradients: dict[str, Tensor]
    later: list[float]


def _steps(made: Training, count: int) -> _Steps:
    first, gradients, later = {}, {}, []
    for place, batch in enumerate(made.batches(count)):
        values = made.step(batch, with_stats=place == 0)
        later.append(values["ranking"])
        if not place:
            first = values
            gradients = {name: parameter.grad.float().cpu() for name, parameter in made.learner.model.named_parameters()
                         if parameter.grad is not None}
    return _Steps(first, gradients, later)


def _relative(found: float, reference: float) -> float:
    return abs(found - reference) / max(abs(reference), 1e-3)
