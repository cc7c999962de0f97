"""`train` as plan, run, describe and a search see it. Light: see :mod:`pipeline.stage`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.prepare.definition import TRAIN_FILE, VALIDATION_FILE
from pipeline.reduce.definition import TARGETS, items_label
from pipeline.stage import Resources, Stage, Step
from pipeline.store import columns as c

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.store.artifacts import Artifact, ArtifactDir, StageKey
    from pipeline.store.digests import DigestCache
    from pipeline.train.config import Arm


@dataclass(frozen=True, kw_only=True)
class TrainStep(Step):
    """One arm with one seed → a recommender. ``config``: as it is in this arm."""

    teacher: Arm
    """What the profiles do in the arm."""
    seed: int
    item_vectors: str | None = None
    """Label of the step that reduces the item texts that its table starts from."""
    item_texts: str | None = None
    """Label of the step that encodes the item texts, where ``train.reads_texts``."""
    members: tuple[str, ...] = ()
    """Labels of the steps that train the members of its ensemble, in their order."""

    @classmethod
    def of(cls, config: RunConfig, arm: str, seed: int) -> TrainStep:
        """The step of an arm and a seed."""
        own, teacher = config.for_arm(arm), config.teacher(arm)
        vectors = items_label(own) if own.train.item_init is not None else None
        texts = "encode/items" if own.train.reads_texts else None
        members = tuple(f"train/{member.arm}/seed-{seed + member.seed}" for member in config.members(arm))
        profiles = "reduce" if teacher != "plain" or own.train.profile_input is not None else None
        inputs = ("prepare", *filter(None, (profiles, vectors, texts)), *dict.fromkeys(members))
        return cls(config=own, label=f"train/{arm}/seed-{seed}", inputs=inputs, teacher=teacher, seed=seed,
                   item_vectors=vectors, item_texts=texts, members=members)

    def key(self, fingerprints: Mapping[str, str], digests: DigestCache) -> StageKey:
        from pipeline.train.keys import key

        return key(self.config.train, self.config.model, self.teacher, self.seed, fingerprints["prepare"],
                   fingerprints.get("reduce"), fingerprints.get(self.item_vectors or ""),
                   fingerprints.get(self.item_texts or ""), [fingerprints[label] for label in self.members])

    def build(self, inputs: Mapping[str, Artifact], out: ArtifactDir, confirmed: bool) -> Artifact:
        return self.train(inputs, out)

    def train(self, inputs: Mapping[str, Artifact], out: ArtifactDir,
              on_epoch: Callable[[dict[str, Any]], None] | None = None) -> Artifact:
        """:meth:`build`, watched: ``on_epoch`` gets the record of every epoch."""
        from pipeline.train.stage import train

        return train(self.config.train, self.config.model, self.teacher, self.seed, inputs["prepare"],
                     inputs.get("reduce"), out, on_epoch, inputs.get(self.item_vectors or ""),
                     inputs.get(self.item_texts or ""), [inputs[label] for label in self.members])

    def needs_ray(self, inputs: Mapping[str, Artifact]) -> bool:
        return self.config.train.execution.most_workers > 0


def recommenders(config: RunConfig) -> Iterator[TrainStep]:
    """The recommenders of a run that are compared: every arm with every seed."""
    for seed in config.seeds:
        for arm in config.arms:
            yield TrainStep.of(config, arm, seed)


def _steps(config: RunConfig) -> Iterator[TrainStep]:
    """The same and the members of their ensembles, each once and after its own members."""
    found: dict[str, TrainStep] = {}
    for seed in config.seeds:
        for arm in config.arms:
            _add_with_members(config, arm, seed, found)
    yield from found.values()


def _add_with_members(config: RunConfig, arm: str, seed: int, found: dict[str, TrainStep]) -> None:
    for member in config.members(arm):
        _add_with_members(config, member.arm, seed + member.seed, found)
    step = TrainStep.of(config, arm, seed)
    found.setdefault(step.label, step)


def _resources(config: RunConfig) -> Resources:
    workers = config.train.execution
    return Resources(workers.most_workers, workers.cpus_per_worker, float(workers.use_gpu),
                     fewest=workers.fewest_workers, others=workers.others)


TRAIN = Stage(
    name="train",
    help="Up to trained recommenders, per arm and seed.",
    needs={TRAIN_FILE: (c.USER_IDX, c.ITEMS), VALIDATION_FILE: (c.USER_IDX, c.HISTORY, c.TARGET),
           TARGETS: (c.USER_IDX, c.ANGLE, c.VECTOR)},
    makes={"model/model.safetensors": (), "metrics.jsonl": ()},
    steps=_steps,
    resources=_resources,
    resumable=True,
)
