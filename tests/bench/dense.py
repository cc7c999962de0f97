"""The slow reference of ranking: a dense product in double precision.

Legend: B users, D vector width, V catalogue, K list length.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.sequences import Cases


def dense_ranks(states_BD: Tensor, items_VD: Tensor, cases: Cases, indices: np.ndarray) -> np.ndarray:
    """1-based ranks of the targets of the cases at ``indices``, seen items removed, int64 [B]."""
    scores_BV = _scores(states_BD, items_VD)
    targets_B1 = torch.from_numpy(cases.targets[indices].astype(np.int64))[:, None] - 1
    bars_B1 = scores_BV.gather(1, targets_B1)
    _remove_seen(scores_BV, cases, indices)
    ranks: np.ndarray = 1 + (scores_BV > bars_B1).sum(1).numpy()
    return ranks


def dense_lists(states_BD: Tensor, items_VD: Tensor, cases: Cases, indices: np.ndarray, top_k: int) -> np.ndarray:
    """The best items after the histories at ``indices``, seen items removed, int64 [B, K]."""
    scores_BV = _scores(states_BD, items_VD)
    _remove_seen(scores_BV, cases, indices)
    lists: np.ndarray = 1 + scores_BV.topk(top_k).indices.numpy()
    return lists


def _scores(states_BD: Tensor, items_VD: Tensor) -> Tensor:
    return states_BD.double() @ items_VD.double().T


def _remove_seen(scores_BV: Tensor, cases: Cases, indices: np.ndarray) -> None:
    for row, index in enumerate(indices):
        scores_BV[row, torch.from_numpy(cases.histories[index].astype(np.int64)) - 1] = -torch.inf
