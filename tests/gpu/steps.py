"""Seconds and memory of optimizer steps at the sizes of Amazon Beauty and Amazon-M2, and the epochs they come to."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from configs.loader import load
from models.config import ModelConfig
from pipeline.config import RunConfig
from pipeline.train.config import Arm, TrainConfig
from tests.gpu.machine import forget_peak, peak_mib, settle
from tests.gpu.training import Task, Training
from tests.sequences import generate


@dataclass(frozen=True)
class Size:
    """A data set's shape, and the configuration that is trained on it."""

    name: str
    users: int
    items: int
    mean_length: float
    config: str
    published_s: dict[str, float]
    """Seconds of an epoch that the paper gives, by arm."""

    def task(self) -> Task:
        """Generated."""
        return Task.of(generate(self.users, self.items, self.mean_length), self.items)


BEAUTY = Size("beauty", 22_363, 12_101, 6.9, "configs/beauty/sasrec.yaml", {})
M2 = Size("amazon-m2", 616_502, 334_060, 5.9, "configs/paper/amazon-m2-sasrec.yaml",
          {"plain": 663.26, "distilled": 833.36})
SMALL = Size("small", 60, 300, 5.0, M2.config, {})
SAMPLED = {"kind": "sampled_softmax", "negatives": 512}
LOSSES: dict[str, dict[str, Any]] = {
    "softmax": {"loss": {"kind": "softmax"}},
    "sampled_softmax": {"loss": SAMPLED},
    "sampled_softmax, rowwise": {"loss": SAMPLED, "optimizer": {"table": "rowwise"}},
}
ARMS: tuple[Arm, ...] = ("plain", "distilled")


@dataclass(frozen=True)
class Limit:
    """When timing one case ends."""

    steps: int
    seconds: float
    warm_up: int = 5
    """Steps before these."""


@dataclass(frozen=True)
class Case:
    """One way to train at one size."""

    size: Size
    loss: str
    precision: str
    arm: Arm

    def __str__(self) -> str:
        return f"{self.size.name}: {self.loss}, {self.precision}, {self.arm}"

    def settings(self) -> tuple[ModelConfig, TrainConfig]:
        """The size's own configuration with this loss and precision."""
        run = load(RunConfig, self.size.config, [])
        train = run.train.model_dump()
        changed = LOSSES[self.loss]
        train["loss"], train["precision"] = changed["loss"], self.precision
        train["optimizer"] |= changed.get("optimizer", {})
        return run.model, TrainConfig.model_validate(train)


def cases(sizes: tuple[Size, ...]) -> Iterator[Case]:
    """All of them, size by size."""
    for case in itertools.product(sizes, LOSSES, ("fp32", "bf16"), ARMS):
        yield Case(*case)


def measure(case: Case, task: Task, device: torch.device, limit: Limit) -> dict[str, Any]:
    """Time steps until a limit is reached."""
    forget_peak(device)
    made = Training(task, *case.settings(), case.arm, device)
    done, seconds, positions, started, values = 0, 0.0, 0.0, 0.0, {}
    for place, batch in enumerate(made.batches(limit.warm_up + limit.steps)):
        if place == limit.warm_up:
            settle(device)
            started = time.perf_counter()
        values = made.step(batch)
        if place >= limit.warm_up:
            done, positions, seconds = done + 1, positions + values["num_positions"], time.perf_counter() - started
        if seconds > limit.seconds:
            break
    settle(device)
    per_step = (time.perf_counter() - started) / done
    published = case.size.published_s.get(case.arm)
    return {
        "case": str(case), "steps": done, "seconds_per_step": per_step, "steps_per_epoch": len(made),
        "epoch_seconds": per_step * len(made), "published_epoch_seconds": published,
        "positions_per_step": positions / done, "peak_gpu_mib": peak_mib(device), "loss": values["ranking"],
    }
