"""The stages there are. A further one is a folder with a `definition.py`, and a place in this list."""

from __future__ import annotations

from pipeline.audit.definition import AUDIT
from pipeline.encode.definition import ENCODE
from pipeline.evaluate.definition import EVALUATE
from pipeline.prepare.definition import PREPARE
from pipeline.profile.definition import PROFILE
from pipeline.reduce.definition import REDUCE
from pipeline.report.definition import REPORT
from pipeline.stage import Stage
from pipeline.train.definition import TRAIN

STAGES: dict[str, Stage] = {stage.name: stage for stage in (
    PREPARE, PROFILE, ENCODE, AUDIT, REDUCE, TRAIN, EVALUATE, REPORT)}
"""By name, in build order."""


def can_cost(name: str) -> bool:
    """Whether the stage, or one before it, may have a price."""
    names = list(STAGES)
    return any(STAGES[before].can_cost for before in names[:names.index(name) + 1])
