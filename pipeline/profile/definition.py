"""`profile` as plan, run and describe see it. Light: see :mod:`pipeline.stage`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.prepare.definition import HISTORIES_FOLDER, ITEMS_FILE
from pipeline.stage import Columns, Resources, Stage, Step
from pipeline.store import columns as c

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.store.artifacts import Artifact, ArtifactDir, StageKey
    from pipeline.store.digests import DigestCache

PROFILES = "profiles"
REJECTED = "rejected.parquet"
PROFILE_COLUMNS = (c.ROW_ID, c.USER_IDX, c.ANGLE, c.PROFILE)
REJECTED_COLUMNS = (c.USER_IDX, c.ANGLE, c.REASON)
COLUMNS: Columns = {PROFILES: PROFILE_COLUMNS, REJECTED: REJECTED_COLUMNS}


@dataclass(frozen=True, kw_only=True)
class ProfileStep(Step):
    """Training histories → one text per user and angle."""

    label: str = "profile"
    inputs: tuple[str, ...] = ("prepare",)

    def key(self, fingerprints: Mapping[str, str], digests: DigestCache) -> StageKey:
        from pipeline.profile.keys import key

        return key(self.config.profile, fingerprints["prepare"], digests)

    def build(self, inputs: Mapping[str, Artifact], out: ArtifactDir, confirmed: bool) -> Artifact:
        from pipeline.profile.stage import profile

        return profile(self.config.profile, inputs["prepare"], out, confirmed)

    def needs_ray(self, inputs: Mapping[str, Artifact]) -> bool:
        return self.config.profile.engine.demand(self.config.profile.execution).actors > 0


def _steps(config: RunConfig) -> Iterator[Step]:
    yield ProfileStep(config=config)


def _resources(config: RunConfig) -> Resources:
    actors = config.profile.engine.demand(config.profile.execution)
    return Resources(actors.actors, actors.num_cpus, actors.num_gpus, others=actors.others)


PROFILE = Stage(
    name="profile",
    help="Up to profiles: one text per user.",
    needs={HISTORIES_FOLDER: (c.USER_IDX, c.ITEMS, c.SIGNALS), ITEMS_FILE: (c.ITEM_IDX, c.TITLE, c.CATEGORY, c.FIELDS)},
    makes=COLUMNS,
    steps=_steps,
    resources=_resources,
    resumable=True,
    can_cost=True,
)
