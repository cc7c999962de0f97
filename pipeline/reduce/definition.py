"""`reduce` as plan, run and describe see it. Light: see :mod:`pipeline.stage`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.encode.definition import VECTORS
from pipeline.stage import Columns, Resources, Stage, Step
from pipeline.store import columns as c

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.reduce.config import ReduceConfig
    from pipeline.store.artifacts import Artifact, ArtifactDir, StageKey
    from pipeline.store.digests import DigestCache

TARGETS = "targets.safetensors"
ITEM_VECTORS = "items.safetensors"
COLUMNS: Columns = {TARGETS: (c.USER_IDX, c.ANGLE, c.VECTOR), ITEM_VECTORS: (c.ITEM_IDX, c.VECTOR)}
"""An artifact of profiles holds the first, one of item texts the second."""


@dataclass(frozen=True, kw_only=True)
class ReduceStep(Step):
    """Vectors of profiles → teacher targets."""

    label: str = "reduce"
    inputs: tuple[str, ...] = ("encode",)

    def settings(self) -> ReduceConfig:
        """How these vectors are reduced."""
        return self.config.reduce

    def key(self, fingerprints: Mapping[str, str], digests: DigestCache) -> StageKey:
        from pipeline.reduce.keys import key

        return key(self.settings(), fingerprints[self.inputs[0]])

    def build(self, inputs: Mapping[str, Artifact], out: ArtifactDir, confirmed: bool) -> Artifact:
        from pipeline.reduce.stage import reduce

        return reduce(self.settings(), inputs[self.inputs[0]], out)

    def needs_ray(self, inputs: Mapping[str, Artifact]) -> bool:
        config = self.settings()
        large = inputs[self.inputs[0]].manifest.counts["num_out"] > config.fit_rows
        return config.execution.actors > 0 and (config.execution.num_gpus > 0 or large)


@dataclass(frozen=True, kw_only=True)
class ReduceItemsStep(ReduceStep):
    """Vectors of item texts → vectors of the student's width. ``config``: as it is in the arm that starts from them."""

    inputs: tuple[str, ...] = ("encode/items",)

    def settings(self) -> ReduceConfig:
        return self.config.item_reduce()

    def build(self, inputs: Mapping[str, Artifact], out: ArtifactDir, confirmed: bool) -> Artifact:
        from pipeline.reduce.stage import reduce_items

        return reduce_items(self.settings(), inputs[self.inputs[0]], out)


def items_label(config: RunConfig) -> str:
    """Of the step that makes the item vectors which an arm's table starts from; arms that want the same share it."""
    settings = config.item_reduce()
    whitened = "-whitened" if settings.whiten else ""
    return f"reduce/items/{settings.method.kind}-{config.model.hidden_dim}{whitened}"


def _steps(config: RunConfig) -> Iterator[Step]:
    yield ReduceStep(config=config)
    found: dict[str, Step] = {}
    for arm in config.trained_arms():
        own = config.for_arm(arm)
        if own.train.item_init is not None:
            found.setdefault(items_label(own), ReduceItemsStep(config=own, label=items_label(own)))
    yield from found.values()


def _resources(config: RunConfig) -> Resources:
    actors = config.reduce.execution
    return Resources(actors.actors, actors.num_cpus, actors.num_gpus,
                     None if actors.num_gpus else config.reduce.fit_rows, others=actors.others)


REDUCE = Stage(
    name="reduce",
    help="Up to teacher targets: reduced vectors.",
    needs={VECTORS: (c.USER_IDX, c.ANGLE, c.VECTOR)},
    makes=COLUMNS,
    steps=_steps,
    resources=_resources,
)
