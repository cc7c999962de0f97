"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.store.artifacts import Artifact


@dataclass(frozen=True)
class ReportInputs:
    """The finished artifacts of a run."""

    prepared: Artifact
    profiles: Artifact | None
    """None in a run whose arms have no teacher; so are the next two."""
    encoded: Artifact | None
    targets: Artifact | None
    trained: Mapping[tuple[str, int], Artifact]
    """(arm, seed) → `train` artifact."""
    evaluated: Mapping[tuple[str, int], Artifact]
    """(arm, seed) → `evaluate` artifact."""
    baselines: Mapping[str, Artifact]
    """Name → `evaluate` artifact."""
    skipped_baselines: Mapping[str, str] = field(default_factory=dict)
    """Name → why it was not computed."""
    audit: Artifact | None = None
    """Of the teacher; None where it was not asked for."""
