"""`audit` as plan, run and describe see it. Light: see :mod:`pipeline.stage`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.encode.definition import ITEM_VECTORS, VECTORS
from pipeline.prepare.definition import VALIDATION_FILE
from pipeline.stage import Columns, Stage, Step
from pipeline.store import columns as c

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.store.artifacts import Artifact, ArtifactDir, StageKey
    from pipeline.store.digests import DigestCache

FIGURES = "audit.json"
RANKS = "ranks.parquet"
SUBJECT = "subject"
"""Column: whose vectors ranked."""
COLUMNS: Columns = {RANKS: (SUBJECT, c.USER_IDX, c.TARGET, c.RANK, c.RANK_UNFILTERED)}


@dataclass(frozen=True, kw_only=True)
class AuditStep(Step):
    """How well profiles rank validation items."""

    label: str = "audit"
    inputs: tuple[str, ...] = ("prepare", "encode", "encode/items")

    def key(self, fingerprints: Mapping[str, str], digests: DigestCache) -> StageKey:
        from pipeline.audit.keys import key

        return key(self.config.audit, fingerprints["prepare"], fingerprints["encode"], fingerprints["encode/items"])

    def build(self, inputs: Mapping[str, Artifact], out: ArtifactDir, confirmed: bool) -> Artifact:
        from pipeline.audit.stage import audit

        return audit(self.config.audit, inputs["prepare"], inputs["encode"], inputs["encode/items"], out)

    def needs_ray(self, inputs: Mapping[str, Artifact]) -> bool:
        return False


def _steps(config: RunConfig) -> Iterator[Step]:
    yield AuditStep(config=config)


AUDIT = Stage(
    name="audit",
    help="How well profiles rank validation items.",
    needs={VECTORS: (c.USER_IDX, c.ANGLE, c.VECTOR), ITEM_VECTORS: (c.ITEM_IDX, c.VECTOR),
           VALIDATION_FILE: (c.USER_IDX, c.HISTORY, c.TARGET)},
    makes={FIGURES: (), **COLUMNS},
    steps=_steps,
    wanted="on request",
    has_figures=True,
)
