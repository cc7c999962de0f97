"""Seconds to rank users over a large catalogue with the ranking of `evaluate`, lists of 20 items included."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models.config import SASRecConfig
from models.ranking import rank_users
from models.scoring import EncoderScorer
from models.sequences import Cases
from models.students import build_encoder
from pipeline.evaluate.config import EvaluateExecution
from tests.gpu.machine import forget_peak, peak_mib, settle
from tests.sequences import generate

SHARD = 4096
"""Users of one call, as `evaluate` ranks them."""


@dataclass(frozen=True)
class Size:
    """How many users over how many items, and what the paper gives for it."""

    users: int
    items: int
    seconds: float
    """After so many no further call begins; the rest is extrapolated."""
    published_s: float | None = None


M2 = Size(100_000, 334_060, 60.0, 41.07)
SMALL = Size(100, 500, 5.0)


def measure(size: Size, device: torch.device) -> list[dict[str, Any]]:
    """By tiles of the default size, and by tiles of all items at once."""
    histories = generate(size.users, size.items, mean_length=5.9)
    targets = np.random.default_rng(0).integers(1, size.items + 1, size.users).astype(np.int32)
    cases = Cases(np.arange(size.users), histories, targets)
    scorer = EncoderScorer(build_encoder(SASRecConfig(num_heads=8), size.items, 0), device)
    default = EvaluateExecution()
    rank_users(scorer, cases.take(np.arange(min(64, size.users))), top_k=20)
    return [_timed(size, scorer, cases, default.batch_users, chunk, device)
            for chunk in (default.item_chunk, size.items)]


def _timed(size: Size, scorer: EncoderScorer, cases: Cases, batch_users: int, item_chunk: int, device: torch.device
           ) -> dict[str, Any]:
    forget_peak(device)
    settle(device)
    started, done = time.perf_counter(), 0
    while done < size.users and time.perf_counter() - started < size.seconds:
        stop = min(done + SHARD, size.users)
        rank_users(scorer, cases.take(np.arange(done, stop)), batch_users=batch_users, item_chunk=item_chunk, top_k=20)
        done = stop
    settle(device)
    seconds = time.perf_counter() - started
    return {
        "case": f"{size.users} users, {size.items} items, tiles of {batch_users} × {item_chunk}", "users_ranked": done,
        "seconds": seconds, "seconds_for_all": seconds * size.users / done, "published_seconds": size.published_s,
        "peak_gpu_mib": peak_mib(device),
    }
