"""Ranks and recommendation lists of `evaluate` artifacts, checked to be about the same test cases.

Legend: N test users, K recommended items, V catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from configs.errors import ArtifactError
from models import metrics
from pipeline.evaluate.definition import HISTORY_LENGTH, RANKS, TARGET_COUNT, TOP, TOP_LISTS, TOP_UNFILTERED
from pipeline.report.catalogue import rows_of_users
from pipeline.store.arrow import numbers
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import RANK, RANK_UNFILTERED, TARGET, USER_IDX

Protocol = Literal["seen_removed", "all_items"]
PROTOCOLS: Final[tuple[Protocol, ...]] = ("seen_removed", "all_items")
RANK_COLUMN: Final[dict[Protocol, str]] = {"seen_removed": RANK, "all_items": RANK_UNFILTERED}
TOP_COLUMN: Final[dict[Protocol, str]] = {"seen_removed": TOP, "all_items": TOP_UNFILTERED}
LISTED = 10
"""Coverage and popularity are told of lists of this length."""


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
    """One recommender's answer to the cases. The lists stay in its artifact."""

    ranks: dict[Protocol, np.ndarray]
    """int32 [N]."""
    listed: dict[Protocol, dict[str, float]]
    """Coverage and popularity of the lists, cut to :data:`LISTED` items."""
    evaluated: Artifact

    def per_user(self, protocol: Protocol, cutoffs: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Recall, NDCG and MRR of each user, fp64 [N]."""
        return metrics.per_user(self.ranks[protocol], cutoffs)

    def lists(self, protocol: Protocol, users: list[int]) -> dict[int, list[int]]:
        """The stored lists of a few users, best first; 0 marks an empty place."""
        column = TOP_COLUMN[protocol]
        found = rows_of_users(self.evaluated, TOP_LISTS, [column], users)
        return dict(zip(found[USER_IDX].to_pylist(), found[column].to_pylist(), strict=True))


def read_cases(evaluated: Artifact) -> Cases:
    """The cases of an `evaluate` artifact."""
    table = _sorted(evaluated.read_table(RANKS, [USER_IDX, TARGET, HISTORY_LENGTH, TARGET_COUNT]))
    return Cases(*(table[name].to_numpy() for name in (USER_IDX, TARGET, HISTORY_LENGTH, TARGET_COUNT)))


def read_ranked(evaluated: Artifact, cases: Cases, counts_V: np.ndarray) -> Ranked:
    """The answers of an `evaluate` artifact.

    Args:
        counts_V: training interactions of item 1, 2, ….

    Raises:
        ArtifactError: it is about other users or targets than ``cases``.
    """
    stored = evaluated.read_table(RANKS, [USER_IDX, TARGET, *RANK_COLUMN.values()])
    users_N, table = stored[USER_IDX].to_numpy(), _sorted(stored)
    same = np.array_equal(table[USER_IDX].to_numpy(), cases.users_N) and np.array_equal(
        table[TARGET].to_numpy(), cases.targets_N)
    times_V = {protocol: np.zeros(len(counts_V), np.int64) for protocol in PROTOCOLS}
    done = listed = 0
    for batch in evaluated.read_batches(TOP_LISTS, [USER_IDX, *TOP_COLUMN.values()]):
        same = same and np.array_equal(numbers(batch[USER_IDX]), users_N[done : done + len(batch)])
        done += len(batch)
        for protocol, name in TOP_COLUMN.items():
            top_BK = numbers(batch[name].flatten()).reshape(len(batch), -1)[:, :LISTED]
            listed = top_BK.shape[1]
            times_V[protocol] += metrics.times_listed(top_BK, len(counts_V))
    if not same or done != len(users_N):
        raise ArtifactError(f"{evaluated.folder}: its test users or targets are not those of the other recommenders; "
                            "delete the folder and run again")
    figures = {protocol: {f"coverage@{listed}": metrics.coverage(times_V[protocol]),
                          f"popularity@{listed}": metrics.mean_popularity(times_V[protocol], counts_V)}
               for protocol in PROTOCOLS}
    return Ranked({p: table[name].to_numpy() for p, name in RANK_COLUMN.items()}, figures, evaluated)


def _sorted(table: pa.Table) -> pa.Table:
    return table.sort_by(USER_IDX).combine_chunks()
