"""`prepare` as plan, run and describe see it. Light: see :mod:`pipeline.stage`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.stage import Columns, Resources, Stage, Step
from pipeline.store import columns as c

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.store.artifacts import Artifact, ArtifactDir, StageKey
    from pipeline.store.digests import DigestCache

INTERACTIONS_FILE = "interactions.parquet"
ITEMS_FILE = "items.parquet"
USERS_FILE = "users.parquet"
HISTORIES_FOLDER = "histories"
TRAIN_FILE = "train.arrow"
VALIDATION_FILE = "validation.arrow"
TEST_FILE = "test.arrow"
STATS_FILE = "stats.json"
COLD_FILE = "cold_items.parquet"
"""Only where `prepare.cold_start` is set."""
COLD = "cold"
"""Column: REMOVED or CUT."""
REMOVED, CUT = "removed", "cut"
BEFORE = "train_count_before"
"""Column: the item's interactions in the training part before, int32."""
COLD_COLUMNS: Columns = {COLD_FILE: (c.ITEM_IDX, c.ITEM_ID, COLD, BEFORE, c.COUNT)}

COLUMNS: Columns = {
    INTERACTIONS_FILE: (c.USER_IDX, c.ITEM_IDX, c.TIMESTAMP, c.SIGNAL, c.POSITION, c.SPLIT),
    ITEMS_FILE: (c.ITEM_IDX, c.ITEM_ID, c.TITLE, c.CATEGORY, c.FIELDS, c.COUNT),
    USERS_FILE: (c.USER_IDX, c.USER_ID, c.COUNT, c.ATTRIBUTES),
    HISTORIES_FOLDER: (c.USER_IDX, c.ITEMS, c.SIGNALS, c.TIMESTAMPS),
    TRAIN_FILE: (c.USER_IDX, c.ITEMS),
    VALIDATION_FILE: (c.USER_IDX, c.HISTORY, c.TARGET),
    TEST_FILE: (c.USER_IDX, c.HISTORY, c.TARGET),
}
"""What the stage writes; reviews come on top where asked for."""


@dataclass(frozen=True, kw_only=True)
class PrepareStep(Step):
    """Raw files → interactions, id maps, splits."""

    label: str = "prepare"

    def key(self, fingerprints: Mapping[str, str], digests: DigestCache) -> StageKey:
        from pipeline.prepare.keys import key

        return key(self.config.prepare, digests)

    def build(self, inputs: Mapping[str, Artifact], out: ArtifactDir, confirmed: bool) -> Artifact:
        from pipeline.prepare.stage import prepare

        return prepare(self.config.prepare, out)

    def needs_ray(self, inputs: Mapping[str, Artifact]) -> bool:
        return self.config.prepare.execution.workers > 0


def _steps(config: RunConfig) -> Iterator[Step]:
    yield PrepareStep(config=config)


def _resources(config: RunConfig) -> Resources:
    tasks = config.prepare.execution
    return Resources(tasks.workers, tasks.num_cpus, others=tasks.others) if tasks.workers else Resources()


PREPARE = Stage(
    name="prepare",
    help="Raw files to interactions, id maps, splits.",
    needs={"the raw files of prepare.source": ()},
    makes=COLUMNS,
    steps=_steps,
    resources=_resources,
)
