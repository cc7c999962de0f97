"""`encode` as plan, run and describe see it. Light: see :mod:`pipeline.stage`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.prepare.definition import ITEMS_FILE
from pipeline.profile.definition import PROFILE_COLUMNS, PROFILES
from pipeline.stage import Columns, Resources, Stage, Step
from pipeline.store import columns as c

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.store.artifacts import Artifact, ArtifactDir, StageKey
    from pipeline.store.digests import DigestCache

VECTORS = "vectors"
ITEM_VECTORS = f"{VECTORS}/ of items"
"""The same folder of an artifact of item texts, as `describe` names it."""
REJECTED = "rejected.parquet"
TOKENS = "tokens"
"""Column: tokens of the whole text, int32."""
OVER_LENGTH = "over_length"
"""Column: whether the text has more tokens than the encoder takes, bool."""
COLUMNS: Columns = {VECTORS: (c.USER_IDX, c.ANGLE, c.VECTOR, TOKENS, OVER_LENGTH)}
"""Of the vectors of profiles."""
ITEM_COLUMNS: Columns = {VECTORS: (c.ITEM_IDX, c.VECTOR, TOKENS, OVER_LENGTH), REJECTED: (c.ITEM_IDX, c.REASON)}
"""Of the vectors of items, and of items without text."""


@dataclass(frozen=True, kw_only=True)
class EncodeStep(Step):
    """Profiles → vectors."""

    label: str = "encode"
    inputs: tuple[str, ...] = ("profile",)

    def key(self, fingerprints: Mapping[str, str], digests: DigestCache) -> StageKey:
        from pipeline.encode.keys import key

        return key(self.config.encode, fingerprints["profile"], digests)

    def build(self, inputs: Mapping[str, Artifact], out: ArtifactDir, confirmed: bool) -> Artifact:
        from pipeline.encode.stage import encode

        return encode(self.config.encode, inputs["profile"], out)

    def needs_ray(self, inputs: Mapping[str, Artifact]) -> bool:
        return self.config.encode.execution.actors > 0


@dataclass(frozen=True, kw_only=True)
class EncodeItemsStep(Step):
    """Item texts → vectors, by the same encoder."""

    label: str = "encode/items"
    inputs: tuple[str, ...] = ("prepare",)

    def key(self, fingerprints: Mapping[str, str], digests: DigestCache) -> StageKey:
        from pipeline.encode.keys import items_key

        return items_key(self.config.encode, fingerprints["prepare"], digests)

    def build(self, inputs: Mapping[str, Artifact], out: ArtifactDir, confirmed: bool) -> Artifact:
        from pipeline.encode.stage import encode_items

        return encode_items(self.config.encode, inputs["prepare"], out)

    def needs_ray(self, inputs: Mapping[str, Artifact]) -> bool:
        return self.config.encode.execution.actors > 0


def _steps(config: RunConfig) -> Iterator[Step]:
    yield EncodeStep(config=config)
    yield EncodeItemsStep(config=config)


def _resources(config: RunConfig) -> Resources:
    actors = config.encode.execution
    return Resources(actors.actors, actors.num_cpus, actors.num_gpus, others=actors.others)


ENCODE = Stage(
    name="encode",
    help="Up to vectors: profiles through an encoder.",
    needs={PROFILES: PROFILE_COLUMNS, ITEMS_FILE: (c.ITEM_IDX, c.TITLE, c.FIELDS)},
    makes={VECTORS: COLUMNS[VECTORS], ITEM_VECTORS: ITEM_COLUMNS[VECTORS]},
    steps=_steps,
    resources=_resources,
    resumable=True,
)
