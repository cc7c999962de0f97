"""Test users shared out: fixed contiguous shards, ranked in this process or by Ray actors, with the same result.

A shard is ranked by one thread, and shards do not depend on the number of workers, so every product has the same
shape and order of summation wherever it is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch

from configs.errors import MentorecError, ResourceError
from models.ranking import EncoderScorer, Ranks, Scorer, rank_users
from models.sequences import Cases, Sequences
from pipeline import arrays
from pipeline.artifacts import Artifact
from pipeline.evaluate.baselines import fit_baseline
from pipeline.evaluate.config import Baseline, EvaluateConfig
from pipeline.progress import track
from pipeline.train.export import load_model
from pipeline.train.session import torch_threads

SHARD_USERS = 4096


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

    def scorer(self) -> Scorer:
        train = arrays.training_sequences(self.prepared.local("train.arrow"))[1]
        with torch_threads(1):
            return fit_baseline(self.config, self.name, train, self.num_items)


Subject = TrainedModel | BaselineModel


class Ranker:
    """Ranks shards of the test users; holds what it needs between them."""

    def __init__(self, config: EvaluateConfig, prepared: Artifact, subject: TrainedModel | Scorer) -> None:
        self._config = config
        self._prepared = prepared
        self._subject = subject

    @cached_property
    def _scorer(self) -> Scorer:
        return self._subject.scorer() if isinstance(self._subject, TrainedModel) else self._subject

    @cached_property
    def _cases(self) -> Cases:
        return arrays.cases(self._prepared.local("test.arrow"))

    def rank(self, start: int, stop: int) -> Ranks:
        """Ranks of the cases start…stop-1."""
        execution = self._config.execution
        with torch_threads(1):
            return rank_users(self._scorer, _part(self._cases, start, stop), batch_users=execution.batch_users,
                              item_chunk=execution.item_chunk, top_k=self._config.top_k,
                              tie_seed=self._config.tie_seed)


def rank_cases(config: EvaluateConfig, prepared: Artifact, subject: Subject, num_cases: int) -> Ranks:
    """Ranks of all test cases, in their order; Ray must be initialised when ``config.execution.workers`` ≥ 1.

    Raises:
        ResourceError: a GPU is asked for and not there.
    """
    shards = [(start, min(start + SHARD_USERS, num_cases)) for start in range(0, num_cases, SHARD_USERS)]
    if config.execution.workers:
        parts = _rank_with_ray(config, prepared, subject, shards)
    else:
        if isinstance(subject, TrainedModel) and subject.device == "cuda" and not torch.cuda.is_available():
            raise ResourceError("evaluate.execution.use_gpu: this machine has no usable GPU; set it to false")
        ranker = Ranker(config, prepared, subject if isinstance(subject, TrainedModel) else subject.scorer())
        parts = [ranker.rank(*shard) for shard in track(shards, "evaluate")]
    return Ranks(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Ranks)))


def _rank_with_ray(config: EvaluateConfig, prepared: Artifact, subject: Subject,
                   shards: list[tuple[int, int]]) -> list[Ranks]:
    import ray
    from ray.util import ActorPool

    there = ray.cluster_resources()
    # More actors than CPUs would wait for each other; the result is the same with fewer.
    actors = max(1, min(config.execution.workers, len(shards), int(there.get("CPU", 1))))
    options: dict[str, Any] = {"num_cpus": 1, "max_restarts": 2, "max_task_retries": 2}
    if isinstance(subject, TrainedModel) and subject.device == "cuda":
        if there.get("GPU", 0) < 1:
            raise ResourceError("evaluate.execution.use_gpu: the cluster has no GPU; set it to false")
        options["num_gpus"] = min(1.0, there["GPU"] / actors)
    try:
        shared: Any = subject
        if isinstance(subject, BaselineModel):
            shared = ray.remote(BaselineModel.scorer).options(num_cpus=1).remote(subject)
        remote = ray.remote(Ranker).options(**options)
        pool = ActorPool([remote.remote(config, prepared, shared) for _ in range(actors)])
        results = pool.map(lambda actor, shard: actor.rank.remote(*shard), shards)
        return list(track(results, "evaluate", total=len(shards)))
    except ray.exceptions.RayTaskError as exc:
        if isinstance(exc.cause, MentorecError):
            raise exc.cause from exc
        raise


def _part(cases: Cases, start: int, stop: int) -> Cases:
    offsets = cases.histories.offsets[start : stop + 1]
    values = cases.histories.values[offsets[0] : offsets[-1]]
    return Cases(cases.users[start:stop], Sequences(values, offsets - offsets[0]), cases.targets[start:stop])
