"""Optimizer steps without Ray, files or validation: what training itself costs.

``python -m tests.bench.steps --users 22363 --items 12101 --steps 60 --set loss.kind=softmax`` prints one JSON object.
The sequences are generated (lengths and popularity as in Amazon Beauty); ``run_steps`` takes any.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from models.config import ModelConfig
from models.sequences import Sequences
from models.students import build_encoder
from pipeline.train.config import Arm, TrainConfig
from pipeline.train.data import TrainingRows, shortest_row
from pipeline.train.feed import feed
from pipeline.train.learner import Learner
from pipeline.train.sampler import Sampler
from pipeline.train.schedule import Schedule
from pipeline.train.targets import Targets
from tests.sequences import generate


@dataclass(frozen=True)
class StepTimes:
    """What some steps of an epoch cost."""

    steps: int
    steps_per_epoch: int
    positions: int
    """Targets that the loss was computed at."""
    seconds: float
    cpu_seconds: float
    """Of this process, all threads."""
    median_step_seconds: float
    peak_mib: float
    """Largest resident size of the process."""
    base_mib: float
    """The same before anything was built: interpreter, imports, data."""
    loss: float
    """L_model of the last step."""


def run_steps(sequences: Sequences, num_items: int, model: ModelConfig, config: TrainConfig, steps: int,
              warmup: int = 5, device: str = "cpu", profiles: np.ndarray | None = None, seed: int = 0) -> StepTimes:
    """Train on slices of the first epoch, as a run does.

    Args:
        sequences: training items of each user.
        num_items: size of the catalogue.
        model: the student.
        config: of training; with ``profiles`` every step distils.
        steps: timed steps, taken evenly from the epoch's batches.
        warmup: further steps before these, not timed.
        device: ``cpu`` or ``cuda``.
        profiles: fp32 [users, width], one teacher vector per user.
        seed: of everything.
    """
    base = _peak_mib()
    encoder = build_encoder(model, num_items, seed)
    index_N, everyone = np.flatnonzero(sequences.lengths >= shortest_row(encoder)), np.arange(len(sequences))
    targets = None if profiles is None else Targets(everyone, everyone[:, None], profiles, np.zeros(
        (1, profiles.shape[1])), np.ones((1, profiles.shape[1])), index_N)
    rows = TrainingRows(everyone, index_N, sequences, encoder.max_length + 1, targets=targets)
    counts_V = rows.drawn_by(config.loss, num_items)
    arm: Arm = "plain" if profiles is None else "distilled"
    learner = Learner(encoder, config, arm, seed, torch.device(device), 0 if profiles is None else profiles.shape[1], 1,
                      counts_V)
    sampler = Sampler(rows.lengths_N, config.users_per_batch(len(rows)), seed, config.batch_tokens)
    order, schedule = sampler.epoch(0), Schedule(config, arm, len(sampler))
    places = np.linspace(0, len(order) - 1, warmup + steps).round().astype(int)
    places = np.random.default_rng(seed).permutation(places)
    learner.model.train()
    spent, positions, started, cpu = [], 0, 0.0, 0.0
    batches = feed(lambda i: rows.batch(order.part(places[i], 0, 1), profiles is not None), len(places),
                   torch.device(device))
    for done in range(len(places)):
        if done == warmup:
            started, cpu = time.perf_counter(), time.process_time()
        before = time.perf_counter()
        batch = next(batches)
        values = learner.gradients(batch, schedule.alpha(done), 0, done, 0, done % 8 == 0)
        learner.update(schedule.learning_rate(done))
        spent.append(time.perf_counter() - before)
        positions += int(values["num_positions"]) if done >= warmup else 0
    if device == "cuda":
        torch.cuda.synchronize()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return StepTimes(steps, len(order), positions, seconds, cpu, float(np.median(spent[warmup:])), _peak_mib(), base,
                     values["ranking"])


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _nested(pairs: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        path, _, value = pair.partition("=")
        *parents, name = path.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = json.loads(value) if value[:1] in "0123456789-{[tfn\"" else value
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=22363)
    parser.add_argument("--items", type=int, default=12101)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--distil", type=int, default=0, metavar="WIDTH", help="teacher vectors of this width")
    parser.add_argument("--model", nargs="*", default=[], metavar="KEY=VALUE", help="student, as in `model:`")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="training, as in `train:`")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model: ModelConfig = TypeAdapter(ModelConfig).validate_python({"kind": "sasrec", **_nested(given.model)})
    config = TrainConfig.model_validate(_nested(given.set))
    sequences = generate(given.users, given.items)
    profiles = None
    if given.distil:
        profiles = np.random.default_rng(1).standard_normal((given.users, given.distil), np.float32)
    print(json.dumps(asdict(run_steps(sequences, given.items, model, config, given.steps, device=given.device,
                                      profiles=profiles)), indent=2))


if __name__ == "__main__":
    main()
