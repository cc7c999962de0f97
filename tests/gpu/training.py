"""Training as `pipeline/train/loop.py` does it, on generated sequences: its sampler, its learner, its way to a GPU.

Only what reads and writes files is left out, and with it pyarrow, safetensors and Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models.config import ModelConfig, counted_source
from models.sequences import Batch, Sequences, pieces
from models.students import build_encoder
from pipeline.train.config import Arm, TrainConfig
from pipeline.train.feed import feed
from pipeline.train.learner import Learner
from pipeline.train.sampler import Sampler
from pipeline.train.schedule import Schedule

PROFILE_DIM = 64


@dataclass(frozen=True)
class Task:
    """What is trained on."""

    sequences: Sequences
    num_items: int
    profiles_NAP: np.ndarray
    """fp32 [users, 1, PROFILE_DIM], a teacher's vectors: noise."""

    @classmethod
    def of(cls, sequences: Sequences, num_items: int) -> Task:
        noise = np.random.default_rng(1).standard_normal((len(sequences), 1, PROFILE_DIM), np.float32)
        return cls(sequences, num_items, noise)


class Training:
    """One student of one arm in its first epoch; the distilled arm distils from the first step on."""

    def __init__(self, task: Task, model: ModelConfig, config: TrainConfig, arm: Arm, device: torch.device) -> None:
        self._task, self._arm, self._device = task, arm, device
        self._max_items = model.max_length + 1
        lengths_N = np.minimum(task.sequences.lengths, self._max_items)
        counts_V = None
        if counted_source(config.loss) is not None:
            counts_V = np.bincount(task.sequences.values, minlength=task.num_items + 1)[1:]  # near enough for speed
        encoder = build_encoder(model, task.num_items, 0)
        self.learner = Learner(encoder, config, arm, 0, device, PROFILE_DIM, 1, counts_V)
        self.learner.model.train()
        sampler = Sampler(lengths_N, config.users_per_batch(len(lengths_N)), 0, config.batch_tokens)
        self._order, self._schedule = sampler.epoch(0), Schedule(config, arm, len(sampler))
        self._done = 0

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self._order)

    def batches(self, count: int) -> Iterator[Batch]:
        """On the device: batches from all over the epoch, in random order, over and over if it has too few."""
        places = np.resize(np.random.default_rng(0).permutation(len(self)), count)
        return feed(lambda i: self._batch(self._order.part(int(places[i]), 0, 1)), count, self._device)

    def step(self, batch: Batch, with_stats: bool = False) -> dict[str, float]:
        """Gradients and update; the step's numbers."""
        values = self.learner.gradients(batch, self._schedule.alpha(self._done), 0, self._done, 0, with_stats)
        self.learner.update(self._schedule.learning_rate(self._done))
        self._done += 1
        return values

    def _batch(self, rows_B: np.ndarray) -> Batch:
        """As `TrainingRows.batch` makes it."""
        sequences, profiles = self._task.sequences, ()
        if self._arm != "plain":
            profiles_BAP = torch.from_numpy(self._task.profiles_NAP[rows_B])
            profiles = profiles_BAP, torch.ones(profiles_BAP.shape[:2], dtype=torch.bool)
        cut = pieces(np.minimum(sequences.lengths_of(rows_B), self._max_items))
        return Batch(torch.from_numpy(rows_B), torch.from_numpy(sequences.padded(rows_B, self._max_items)), *profiles,
                     pieces=cut)


def train_config(**settings: Any) -> TrainConfig:
    """From nested values."""
    return TrainConfig.model_validate(settings)
