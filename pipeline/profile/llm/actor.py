"""The Ray actor that replays users: batches of histories → profiles, reasons, or the requests that come next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.profile.histories import Histories
from pipeline.profile.llm.ledger import Index, Ledger, Lookup
from pipeline.profile.llm.prompt_builder import PromptBuilder
from pipeline.profile.llm.replay import ProfileState
from pipeline.profile.llm.requests import REQUEST_TYPE, Answer, Failure
from pipeline.store.arrow import open_arrow
from pipeline.store.artifacts import ArtifactDir
from pipeline.store.columns import ANGLE, PROFILE, REASON, REVIEWS, USER_IDX

WANTED = "wanted"
"""list<REQUEST_TYPE>: what must be answered before the user's profiles stand; empty once they do."""
LEAVES = "leaves"
"""list<list<string>> per angle: keys of the first pass."""
HISTORY = "history_digest"
USAGE = ("first", "first_known", "first_tokens", "requests", "reused", "retried", "reasoning", "prompt_tokens",
         "output_tokens", "later", "later_tokens", "left_out")
"""int64 columns: sums over a user's angles."""
REFUSALS = "refusals"
_STRINGS = pa.list_(pa.string())
INDEX_FILE, FAILURES_FILE = "index.arrow", "failures.arrow"


@dataclass(frozen=True)
class AnswerSnapshot:
    """The answers that are known when a pass begins, by path."""

    ledger: Ledger
    folder: str
    """Below the storage root; holds INDEX_FILE and FAILURES_FILE."""

    def open(self) -> KnownAnswers:
        """Memory-map them."""
        folder = self.ledger.storage.local(self.folder)
        failures = open_arrow(folder / FAILURES_FILE)
        return KnownAnswers(Lookup(self.ledger, Index.open(folder / INDEX_FILE)),
                        dict(zip(*(column.to_pylist() for column in failures.columns), strict=True)))


@dataclass(frozen=True)
class KnownAnswers:
    """By key: an answer of the ledger, or the failure that this command met."""

    lookup: Lookup
    failures: dict[str, str]

    def __call__(self, key: str) -> Answer | Failure | None:
        found = self.lookup(key)
        if found is None and key in self.failures:
            return Failure(self.failures[key])
        return found


class ReplayActor:
    """Replays a batch of users with the answers known when the pass began."""

    def __init__(self, builder: PromptBuilder, out: ArtifactDir, shared: str, known: AnswerSnapshot) -> None:
        self._angles = builder.config.angles
        self._as_tokens = builder.as_tokens
        folder: Path = out.storage.local(out.relative(shared))
        self._replayer = builder.open(folder, out.attempt, known.open())

    def __call__(self, batch: pa.Table) -> pa.Table:
        histories = Histories.from_table(batch)
        reviews = (batch[REVIEWS].combine_chunks().flatten().to_pylist() if REVIEWS in batch.column_names else None)
        by_angle = [self._replayer.replay(histories, reviews, angle) for angle in self._angles]
        users = [[state for state, _ in user] for user in zip(*by_angle, strict=True)]
        digests = [[digest for _, digest in user] for user in zip(*by_angle, strict=True)]
        return pa.table({
            USER_IDX: batch[USER_IDX],
            ANGLE: pa.array([list(self._angles)] * len(users), _STRINGS),
            PROFILE: pa.array([[state.text for state in user] for user in users], _STRINGS),
            REASON: pa.array([[state.reason for state in user] for user in users], _STRINGS),
            WANTED: pa.array([[request.row(self._as_tokens) for state in user for request in state.wanted]
                              for user in users], pa.list_(REQUEST_TYPE)),
            LEAVES: pa.array([[state.usage.leaf_keys for state in user] for user in users], pa.list_(_STRINGS)),
            HISTORY: pa.array(digests, _STRINGS),
            REFUSALS: pa.array([[reason for state in user for reason in state.usage.refusals] for user in users],
                               _STRINGS),
            **{name: pa.array([_sum(user, name) for user in users], pa.int64()) for name in USAGE},
        })


def _sum(user: list[ProfileState], name: str) -> Any:
    return sum(getattr(state.usage, name) for state in user)
