"""Ranking on a GPU against the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.ranking import rank_users
from models.sequences import Cases, Sequences

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
USERS, ITEMS = 200, 1003


class Product:
    """Integer-valued factors: products are exact on any device, and many scores tie."""

    num_items = ITEMS

    def __init__(self, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self._users = torch.randint(-2, 3, (USERS, 4), generator=generator).float().to(device)
        self._items = torch.randint(-2, 3, (ITEMS, 4), generator=generator).float().to(device)

    def states(self, histories: Sequences, indices: np.ndarray) -> Tensor:
        return self._users[torch.from_numpy(indices).to(self._users.device)]

    def scores(self, states: Tensor, start: int, stop: int) -> Tensor:
        return states @ self._items[start - 1 : stop - 1].T


def test_the_gpu_ranks_and_recommends_like_the_cpu() -> None:
    rng = np.random.default_rng(0)
    histories = Sequences.from_lists([rng.integers(1, ITEMS + 1, rng.integers(0, 30)).tolist() for _ in range(USERS)])
    cases = Cases(np.arange(USERS), histories, rng.integers(1, ITEMS + 1, USERS).astype(np.int32))
    cpu, gpu = (rank_users(Product(device), cases, item_chunk=700, top_k=7) for device in ("cpu", "cuda"))
    for name in ("rank", "rank_unfiltered", "top", "top_unfiltered"):
        np.testing.assert_array_equal(getattr(gpu, name), getattr(cpu, name))
