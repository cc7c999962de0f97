"""Who is whose neighbour by the profiles' vectors, for the teacher of that name.

Legend: R profiled training users, A angles, P profile width, K neighbours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from configs.errors import DataError, illegal
from pipeline.reduce.neighbors import nearest, unit_rows
from pipeline.store.tensors import save_file
from pipeline.train.targets import Targets


def write_neighbours(targets: Targets, count: int, path: Path) -> None:
    """Find each user's nearest others by cosine, exactly: time grows with R².

    Args:
        targets: those of the arm, of the profiled users in their order; several angles are averaged.
        count: K; with fewer others, all of them.
        path: safetensors file to write.

    Raises:
        DataError: fewer than two users have a profile.
    """
    users_R = targets.users_R
    if len(users_R) < 2:
        raise DataError(illegal("users with a profile", len(users_R), "2 or more", "neighbours are other users: set "
                                "train.distillation.target.kind=profile, or see rejected.parquet of the profiles"))
    rows_RP = unit_rows(targets.mean_NP())
    near_RK, _ = nearest(rows_RP, rows_RP, min(count + 1, len(users_R)), "cosine")
    others_first = np.argsort(near_RK == np.arange(len(users_R))[:, None], axis=1, kind="stable")
    near_RK = np.take_along_axis(near_RK, others_first, axis=1)[:, :-1]
    save_file({"users": np.ascontiguousarray(users_R), "near": np.ascontiguousarray(near_RK)}, path)


def read_neighbours(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Users int64 [R], ascending, and their neighbours' places among them, int64 [R, K]."""
    tensors = load_file(path)
    return tensors["users"], tensors["near"]
