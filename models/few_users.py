"""The best items of a few users, as a service asks for them: whole rows of rough scores, doubts settled exactly.

A pass over tiles (:mod:`models.best`) costs what its tiles cost, however few users share them. Here a row's scores are
made at once, and a bar is found from the best score of each run of neighbouring items.

Legend: N users, B users of a block, V catalogue, G runs of items, K list length, D state width, P pairs.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from models.best import put_best
from models.products import BF16_ERROR, Catalogue, Seen, fp32_error

FEW_USERS = 64
"""From more users on, tiles are faster."""
_RUN = 32
"""Items whose best score is looked at first."""
_SCORES = 1 << 24
"""Rough scores that exist at a time."""


def serves(count: int, top_k: int, catalogue: Catalogue) -> bool:
    """Whether :func:`best_of_few` is the way: few users, and lists that are short beside the runs of the catalogue."""
    return count <= FEW_USERS and top_k <= len(catalogue) // _RUN // 4


def best_of_few(states_ND: torch.Tensor, catalogue: Catalogue, seen: Seen, top_k: int,
                precision: Literal["fp32", "bf16"]) -> np.ndarray:
    """Columns (items - 1) of every user's best unseen items, best first, int64 [N, K]; -1 where none is left.

    Args:
        states_ND: fp32, finite.
        seen: pairs that are left out.
        top_k: K.
        precision: of the rough scores; the lists are the same.
    """
    lists_NK = np.full((len(states_ND), top_k), -1)
    rows = max(_SCORES // len(catalogue), 1)
    for start in range(0, len(states_ND), rows):
        block = slice(start, min(start + rows, len(states_ND)))
        rough_BV = _rough_scores(states_ND[block], catalogue, precision)
        among = (seen.rows_P >= block.start) & (seen.rows_P < block.stop)
        rough_BV[torch.from_numpy(seen.rows_P[among] - block.start),
                 torch.from_numpy(seen.columns_P[among])] = -torch.inf
        norms_B = torch.linalg.vector_norm(states_ND[block], dim=1)
        rows_P, columns_P = _candidates(rough_BV, norms_B * _error(states_ND.shape[1], precision), catalogue, top_k)
        put_best(lists_NK, states_ND, catalogue, rows_P + block.start, columns_P)
    return lists_NK


def _rough_scores(states_BD: torch.Tensor, catalogue: Catalogue, precision: str) -> torch.Tensor:
    """fp32 [B, V]."""
    if precision == "bf16":
        return (states_BD.bfloat16() @ catalogue.rounded_VD.T).float()
    return states_BD @ catalogue.items_VD.T


def _error(width: int, precision: str) -> float:
    """How far a rough score may be from the exact one, for vectors of length 1."""
    return 1.5 * BF16_ERROR if precision == "bf16" else fp32_error(width)  # the result is rounded to bf16 once more


def _candidates(rough_BV: torch.Tensor, slack_B: torch.Tensor, catalogue: Catalogue, top_k: int
                ) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of all pairs that may stand in a list: their scores may reach what K runs' best ones surely do.

    Args:
        slack_B: how far a score of an item of length 1 may be off.
    """
    runs = -(-rough_BV.shape[1] // _RUN)
    whole = rough_BV.shape[1] // _RUN * _RUN
    norms_V = torch.from_numpy(catalogue.norms_V)
    best_BG, norms_G = rough_BV.new_empty(len(rough_BV), runs), norms_V.new_empty(runs)
    torch.amax(rough_BV[:, :whole].view(len(rough_BV), -1, _RUN), -1, out=best_BG[:, : whole // _RUN])
    torch.amax(norms_V[:whole].view(-1, _RUN), -1, out=norms_G[: whole // _RUN])
    if whole < rough_BV.shape[1]:
        best_BG[:, -1], norms_G[-1] = rough_BV[:, whole:].amax(-1), norms_V[whole:].amax()
    low_BG = best_BG - slack_B[:, None] * norms_G
    bars_B = low_BG.topk(top_k).values[:, -1]
    rows_R, runs_R = torch.nonzero(best_BG + slack_B[:, None] * norms_G >= bars_B[:, None], as_tuple=True)
    columns_RC = runs_R[:, None] * _RUN + torch.arange(_RUN)
    inside_RC = columns_RC < rough_BV.shape[1]
    columns_RC.clamp_(max=rough_BV.shape[1] - 1)
    scores_RC = rough_BV[rows_R[:, None], columns_RC]
    reach_RC = scores_RC + slack_B[rows_R, None] * norms_V[columns_RC] >= bars_B[rows_R, None]
    runs_P, places_P = torch.nonzero(reach_RC & inside_RC & (scores_RC > -torch.inf), as_tuple=True)
    return rows_R[runs_P].numpy(), columns_RC[runs_P, places_P].numpy()
