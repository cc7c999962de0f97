"""Engines that write by themselves: histories → texts in Ray actors, resumable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from cluster.config import ActorExecution
from pipeline.profile.config import Angle, ProfileConfig
from pipeline.profile.histories import Histories
from pipeline.store.artifacts import Artifact, ArtifactDir
from pipeline.store.columns import ANGLE, ITEMS, PROFILE, REASON, SIGNALS, USER_IDX
from pipeline.work.mapping import map_rows


@dataclass(frozen=True)
class Draft:
    """What an engine says of one user: a text, or the reason why there is none."""

    text: str | None
    reason: str | None = None


class Writer(Protocol):
    """What an actor holds."""

    def write(self, histories: Histories, angle: Angle) -> list[Draft]:
        """One draft per user, in order; every history holds at least one interaction."""


class WritingEngine(Protocol):
    """The driver's side. Picklable: it travels to the actors, which call :meth:`writer`."""

    @property
    def config(self) -> ProfileConfig: ...

    def prepare(self, prepared: Artifact, out: ArtifactDir) -> Mapping[str, Any]:
        """Make ready, once per attempt, what all actors share; returns facts for the manifest."""

    def writer(self, out: ArtifactDir) -> Writer:
        """The writer an actor holds, from what :meth:`prepare` left in ``out``."""


class ProfileActor:
    """Holds an engine's writer in a Ray actor: batches of histories → list columns of angles, texts and reasons."""

    def __init__(self, config: ProfileConfig, engine: WritingEngine, out: ArtifactDir) -> None:
        self._config = config
        self._writer = engine.writer(out)

    def __call__(self, batch: pa.Table) -> pa.Table:
        histories = Histories.from_table(batch)
        if self._config.recent_items is not None:
            histories = histories.last(self._config.recent_items)
        drafts = [self._drafts(histories, angle) for angle in self._config.angles]
        per_user = list(zip(*drafts, strict=True))
        strings = pa.list_(pa.string())
        return pa.table({
            USER_IDX: batch[USER_IDX],
            ANGLE: pa.array([list(self._config.angles)] * len(per_user), strings),
            PROFILE: pa.array([[draft.text for draft in user] for user in per_user], strings),
            REASON: pa.array([[draft.reason for draft in user] for user in per_user], strings),
        })

    def _drafts(self, histories: Histories, angle: Angle) -> list[Draft]:
        seen = histories.angle(angle)
        empty_N, writable_N = histories.lengths_N == 0, seen.lengths_N > 0
        written = iter(self._writer.write(seen.take(writable_N), angle) if writable_N.any() else ())
        drafts = []
        for empty, writable in zip(empty_N, writable_N, strict=True):
            draft = next(written) if writable else Draft(None, nothing_to_see(bool(empty), angle))
            if draft.text is not None and not draft.text.strip():
                draft = Draft(None, "empty text")
            drafts.append(draft)
        return drafts


def nothing_to_see(empty: bool, angle: Angle) -> str:
    """Why an angle finds no interaction in a history."""
    return "no training history" if empty else f"no interaction for the angle {angle}: no signals"


def write_all(engine: WritingEngine, execution: ActorExecution, prepared: Artifact, out: ArtifactDir, ids: np.ndarray
              ) -> Mapping[str, Any]:
    """Leave one row per user in ``rows.RAW`` of the attempt; returns facts for the manifest.

    Ray must be running, unless ``execution.actors`` is 0.
    """
    facts = dict(engine.prepare(prepared, out))
    map_rows(prepared.storage, prepared.relative("histories"), out, actor=ProfileActor,
             arguments={"config": engine.config, "engine": engine, "out": out}, id_column=USER_IDX,
             columns=[USER_IDX, ITEMS, SIGNALS], num_rows=len(ids), execution=execution, label="profile",
             only=None if engine.config.users is None else ids)
    return facts
