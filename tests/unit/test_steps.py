"""The step timer trains with the real parts and counts what it did."""

from __future__ import annotations

import numpy as np
import pytest

from models.config import SampledSoftmaxLoss, SASRecConfig
from pipeline.train.config import OptimizerConfig, TrainConfig
from tests.bench.steps import run_steps
from tests.sequences import generate

MODEL = SASRecConfig(hidden_dim=8, max_length=10)
ROWS = TrainConfig(batch_size=16, loss=SampledSoftmaxLoss(negatives=8), optimizer=OptimizerConfig(table="rowwise"))


def test_generated_sequences_are_of_the_asked_size() -> None:
    sequences = generate(3000, 500, mean_length=6.9)
    assert len(sequences) == 3000 and sequences.lengths.min() == 3
    assert sequences.lengths.mean() == pytest.approx(6.9, rel=0.05)
    assert sequences.values.min() >= 1 and sequences.values.max() <= 500
    counts = np.sort(np.bincount(sequences.values))[::-1]
    assert counts[:50].sum() > 3 * counts[200:250].sum()


@pytest.mark.parametrize("config", [TrainConfig(batch_size=16), ROWS], ids=["softmax", "rowwise"])
@pytest.mark.parametrize("width", [0, 6])
def test_steps_are_timed_and_positions_counted(config: TrainConfig, width: int) -> None:
    sequences = generate(200, 50)
    profiles = np.ones((200, width), np.float32) + np.arange(200, dtype=np.float32)[:, None] if width else None
    times = run_steps(sequences, 50, MODEL, config, steps=12, warmup=1, profiles=profiles)
    assert (times.steps, times.steps_per_epoch) == (12, 13)
    every = int((np.minimum(sequences.lengths, 11) - 1).sum())
    assert every * 11 / 13 * 0.8 < times.positions < every
    assert times.cpu_seconds > 0 and 0 < times.median_step_seconds <= times.seconds
    assert times.peak_mib >= times.base_mib > 0 and np.isfinite(times.loss)
