"""`train` as plan, run, describe and a search see it. Light: see :mod:`pipeline.stage`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.prepare.definition import TRAIN_FILE, VALIDATION_FILE
from pipeline.reduce.definition import TARGETS
from pipeline.stage import Resources, Stage, Step
from pipeline.store import columns as c

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.store.artifacts import Artifact, ArtifactDir, StageKey
    from pipeline.store.digests import DigestCache
    from pipeline.train.config import Arm


@dataclass(frozen=True, kw_only=True)
class TrainStep(Step):
    """One arm with one seed → a recommender."""

    arm: Arm
    seed: int

    @classmethod
    def of(cls, config: RunConfig, arm: Arm, seed: int) -> TrainStep:
        """The step of an arm and a seed."""
        inputs = ["prepare"]
        if arm != "plain":
            inputs.append("reduce")
        if config.train.item_init is not None:
            inputs.append("reduce/items")
        return cls(config=config, label=f"train/{arm}/seed-{seed}", inputs=tuple(inputs), arm=arm, seed=seed)

    def key(self, fingerprints: Mapping[str, str], digests: DigestCache) -> StageKey:
        from pipeline.train.keys import key

        return key(self.config.train, self.config.model, self.arm, self.seed, fingerprints["prepare"],
                   fingerprints.get("reduce"), fingerprints.get("reduce/items"))

    def build(self, inputs: Mapping[str, Artifact], out: ArtifactDir, confirmed: bool) -> Artifact:
        return self.train(inputs, out)

    def train(self, inputs: Mapping[str, Artifact], out: ArtifactDir,
              on_epoch: Callable[[dict[str, Any]], None] | None = None) -> Artifact:
        """:meth:`build`, watched: ``on_epoch`` gets the record of every epoch."""
        from pipeline.train.stage import train

        return train(self.config.train, self.config.model, self.arm, self.seed, inputs["prepare"],
                     inputs.get("reduce"), out, on_epoch, inputs.get("reduce/items"))

    def needs_ray(self, inputs: Mapping[str, Artifact]) -> bool:
        return self.config.train.execution.num_workers > 0


def recommenders(config: RunConfig) -> Iterator[TrainStep]:
    """The recommenders of a run: every arm with every seed."""
    for seed in config.seeds:
        for arm in config.arms:
            yield TrainStep.of(config, arm, seed)


def _resources(config: RunConfig) -> Resources:
    workers = config.train.execution
    return Resources(workers.num_workers, workers.cpus_per_worker, float(workers.use_gpu))


TRAIN = Stage(
    name="train",
    help="Up to trained recommenders, per arm and seed.",
    needs={TRAIN_FILE: (c.USER_IDX, c.ITEMS), VALIDATION_FILE: (c.USER_IDX, c.HISTORY, c.TARGET),
           TARGETS: (c.USER_IDX, c.ANGLE, c.VECTOR)},
    makes={"model/model.safetensors": (), "metrics.jsonl": ()},
    steps=recommenders,
    resources=_resources,
    resumable=True,
)
