"""Ranks and recommendation lists of `evaluate` artifacts, checked to be about the same test cases.

Legend: N test users, K recommended items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from configs.errors import ArtifactError
from models import metrics
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import RANK, RANK_UNFILTERED, TARGET, USER_IDX

Protocol = Literal["seen_removed", "all_items"]
PROTOCOLS: Final[tuple[Protocol, ...]] = ("seen_removed", "all_items")
RANK_COLUMN: Final[dict[Protocol, str]] = {"seen_removed": RANK, "all_items": RANK_UNFILTERED}
TOP_COLUMN: Final[dict[Protocol, str]] = {"seen_removed": "top", "all_items": "top_unfiltered"}


@dataclass(frozen=True)
class Cases:
    """The test cases, in user order."""

    users_N: np.ndarray
    targets_N: np.ndarray
    history_length_N: np.ndarray
    target_count_N: np.ndarray
    """Training interactions of the target; 0 = cold."""


@dataclass(frozen=True)
class Ranked:
    """One recommender's answer to the cases."""

    ranks: dict[Protocol, np.ndarray]
    """int64 [N]."""
    top: dict[Protocol, np.ndarray]
    """int32 [N, K]; 0 marks an empty place."""

    def per_user(self, protocol: Protocol, cutoffs: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Recall, NDCG and MRR of each user, fp64 [N]."""
        return metrics.per_user(self.ranks[protocol], cutoffs)


def read_cases(evaluated: Artifact) -> Cases:
    """The cases of an `evaluate` artifact."""
    table = _sorted(evaluated.read_table("ranks.parquet", [USER_IDX, TARGET, "history_length", "target_count"]))
    return Cases(*(table[name].to_numpy() for name in (USER_IDX, TARGET, "history_length", "target_count")))


def read_ranked(evaluated: Artifact, cases: Cases) -> Ranked:
    """The answers of an `evaluate` artifact.

    Raises:
        ArtifactError: it is about other users or targets than ``cases``.
    """
    table = _sorted(evaluated.read_table("ranks.parquet", [USER_IDX, TARGET, *RANK_COLUMN.values()]))
    top = _sorted(evaluated.read_table("top.parquet", [USER_IDX, *TOP_COLUMN.values()]))
    same = all(np.array_equal(found, expected) for found, expected in (
        (table[USER_IDX].to_numpy(), cases.users_N), (table[TARGET].to_numpy(), cases.targets_N),
        (top[USER_IDX].to_numpy(), cases.users_N)))
    if not same:
        raise ArtifactError(f"{evaluated.folder}: its test users or targets are not those of the other recommenders; "
                            "delete the folder and run again")
    return Ranked({p: table[name].to_numpy().astype(np.int64) for p, name in RANK_COLUMN.items()},
                  {p: _lists(top[name]) for p, name in TOP_COLUMN.items()})


def _sorted(table: pa.Table) -> pa.Table:
    return table.sort_by(USER_IDX).combine_chunks()


def _lists(column: pa.ChunkedArray) -> np.ndarray:
    rows = column.combine_chunks()
    flat = rows.flatten().to_numpy(zero_copy_only=False)
    lists: np.ndarray = flat.reshape(len(rows), -1)
    return lists
