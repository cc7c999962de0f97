"""Test users shared out: fixed contiguous shards, ranked in this process or by Ray tasks, with the same result.

A shard is ranked by one thread, and shards do not depend on the number of workers, so every product has the same
shape and order of summation wherever it is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from configs.errors import ResourceError
from models.ranking import SHARD_USERS, rank_users
from models.scoring import EncoderScorer, Ranks, Scorer
from models.sequences import Cases
from pipeline.evaluate.baselines import fit_baseline
from pipeline.evaluate.config import Baseline, EvaluateConfig
from pipeline.store import arrays
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import ITEM_IDX, VECTOR
from pipeline.train.export import load_model
from pipeline.train.item_vectors import ItemVectors
from pipeline.work.memory import keep_freed_memory
from pipeline.work.nodes import await_gpus, await_nodes, require_type
from pipeline.work.progress import Progress, waiting
from pipeline.work.tasks import in_order, result
from pipeline.work.threads import torch_threads

_TASKS_PER_WORKER, _SHARDS_PER_TASK = 8, 16
"""Tasks of each worker, at least, where there are so many shards; shards of a task, at most."""
_REMEDY = "lower evaluate.execution.batch_users, item_chunk or workers and run again"


@dataclass(frozen=True)
class TrainedModel:
    """A model to be ranked: loaded by whoever ranks."""

    trained: Artifact
    item_digest: str
    """Digest of the catalogue's raw ids, which the model must know."""
    device: str

    def scorer(self) -> Scorer:
        """Raises ArtifactError when the model is damaged or knows another catalogue."""
        return EncoderScorer(load_model(self.trained.local("model"), item_digest=self.item_digest), self.device)


@dataclass(frozen=True)
class BaselineModel:
    """A baseline to be ranked: fitted once on the training part, then handed to whoever ranks."""

    config: EvaluateConfig
    name: Baseline
    prepared: Artifact
    num_items: int
    texts: Artifact | None = None
    """The items' `encode` artifact, for the baseline that reads it."""

    def scorer(self) -> Scorer:
        train = arrays.training_sequences(self.prepared.local("train.arrow"))[1]
        with torch_threads(1), waiting(f"evaluate: fitting {self.name}"):
            return fit_baseline(self.config, self.name, train, self.num_items, self._texts())

    def _texts(self) -> ItemVectors | None:
        if self.texts is None:
            return None
        return ItemVectors.from_table(self.texts.read_table("vectors", [ITEM_IDX, VECTOR]), self.num_items)


Subject = TrainedModel | BaselineModel


def rank_cases(config: EvaluateConfig, prepared: Artifact, subject: Subject, num_cases: int) -> Iterator[Ranks]:
    """Ranks of the test cases shard by shard, in their order; Ray must be initialised when
    ``config.execution.workers`` ≥ 1.

    Raises:
        ArtifactError: the model is damaged or knows another catalogue.
        ResourceError: a GPU is asked for and not there.
        TrainingError: the model's scores are not finite.
    """
    starts = list(range(0, num_cases, SHARD_USERS))
    with Progress("evaluate", num_cases, "users") as progress:
        if config.execution.workers:
            yield from _rank_with_ray(config, prepared, subject, starts, num_cases, progress)
            return
        if _wants_gpu(subject) and not torch.cuda.is_available():
            raise ResourceError("evaluate.execution.use_gpu: this machine has no usable GPU; set it to false")
        scorer = subject.scorer()
        for start in starts:
            yield from rank_shards(config, prepared, scorer, start, min(start + SHARD_USERS, num_cases))
            progress.update(min(start + SHARD_USERS, num_cases))


def rank_shards(config: EvaluateConfig, prepared: Artifact, model: TrainedModel | Scorer, start: int,
                stop: int) -> list[Ranks]:
    """Ranks of the test cases start…stop-1, shard by shard; ``start`` is the first of a shard."""
    keep_freed_memory()
    cases = arrays.cases(prepared.local("test.arrow"))
    scorer = model.scorer() if isinstance(model, TrainedModel) else model
    with torch_threads(1):
        return [rank_users(scorer, _part(cases, first, min(first + SHARD_USERS, stop)),
                           batch_users=config.execution.batch_users, item_chunk=config.execution.item_chunk,
                           top_k=config.top_k, tie_seed=config.tie_seed) for first in range(start, stop, SHARD_USERS)]


def _rank_with_ray(config: EvaluateConfig, prepared: Artifact, subject: Subject, starts: Sequence[int],
                   num_cases: int, progress: Progress) -> Iterator[Ranks]:
    """Some shards per task, so that the model is not loaded for each; ``workers`` tasks at a time."""
    import ray

    workers = config.execution.workers
    each = min(_SHARDS_PER_TASK, max(1, len(starts) // (_TASKS_PER_WORKER * workers)))
    tasks = [(start, min(start + each * SHARD_USERS, num_cases)) for start in starts[::each]]
    wanted = {"CPU": 1.0} | ({"GPU": 1.0} if _wants_gpu(subject) else {}) | config.execution.resources
    require_type(config.execution.accelerator_type, "evaluate")
    there = await_nodes([wanted] * min(workers, len(tasks)), "evaluate")
    if _wants_gpu(subject) and not there.get("GPU"):
        raise ResourceError("evaluate.execution.use_gpu: the cluster has no GPU; set it to false")
    await_gpus([wanted], "evaluate", "correct evaluate.execution.resources")  # one at a time is enough
    placed = config.execution.ray_options()
    rank = ray.remote(rank_shards).options(num_cpus=1, num_gpus=int(_wants_gpu(subject)), **placed)
    shared: Any = subject
    if isinstance(subject, BaselineModel):  # fitted by a worker, so that the driver never holds it
        shared = ray.remote(BaselineModel.scorer).options(num_cpus=1, **placed).remote(subject)
    users_of, users = dict[Any, int](), 0

    def begin() -> Iterator[Any]:
        for start, stop in tasks:
            reference = rank.remote(config, prepared, shared, start, stop)
            users_of[reference] = stop - start
            yield reference

    def ended(reference: Any) -> None:
        nonlocal users
        users += users_of.pop(reference)
        progress.update(users)

    for reference in in_order(begin(), workers, ended):
        yield from result(reference, "evaluate", _REMEDY)


def _wants_gpu(subject: Subject) -> bool:
    return isinstance(subject, TrainedModel) and subject.device == "cuda"


def _part(cases: Cases, start: int, stop: int) -> Cases:
    return Cases(cases.users[start:stop], cases.histories.part(start, stop), cases.targets[start:stop])
