"""Why prompts are asked although profiles of the same kind are there: compared with the newest finished profiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa

from cluster.storage import Storage
from pipeline.profile.llm.actor import HISTORY, LEAVES
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact, ArtifactDir
from pipeline.store.columns import ANGLE, USER_IDX

FIRST_PASS: Final = "first_pass"
"""Folder of an artifact: per user and angle a digest of the history, and the keys of the first prompts."""


def why(out: ArtifactDir, pending: np.ndarray) -> Iterator[str]:
    """One line per reason for which users want answers, where there are profiles to compare with."""
    before = _newest(out.storage, out.key.fingerprint)
    if before is None:
        return
    reasons: Counter[str] = Counter()
    old = _by_user(before.read_table(FIRST_PASS), pending)
    for user, (history, leaves) in _by_user(out.storage.read_table(out.relative(FIRST_PASS)), pending).items():
        if user not in old:
            reasons["new users or angles"] += 1
        elif old[user][0] != history:
            reasons["other interactions"] += 1
        elif old[user][1] != leaves:
            reasons["same interactions, other prompt, item text, model or sampling"] += 1
        else:
            reasons["answers no longer in the ledger, or not all given"] += 1
    for reason, count in reasons.most_common():
        yield f"{reason}: {count:,} of {sum(reasons.values()):,} user profiles (compared with {before.fingerprint})"


def _newest(storage: Storage, fingerprint: str) -> Artifact | None:
    """The profiles finished last that an engine which asks has made."""
    found = [artifact for name in storage.names("artifacts/profile") if name != fingerprint
             and (artifact := artifacts.open_artifact(storage, "profile", name)) is not None
             and storage.exists(artifact.relative(FIRST_PASS))]
    return max(found, key=lambda artifact: artifact.manifest.attempt, default=None)


def _by_user(table: pa.Table, users: np.ndarray) -> dict[tuple[int, str], tuple[str, str]]:
    table = table.filter(pa.array(np.isin(table[USER_IDX].to_numpy(), users)))
    return {(user, angle): (history, " ".join(leaves))
            for user, angles, histories, keys in zip(*(table[name].to_pylist() for name in (
                USER_IDX, ANGLE, HISTORY, LEAVES)), strict=True)
            for angle, history, leaves in zip(angles, histories, keys, strict=True)}
