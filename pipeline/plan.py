"""Which artifacts a run consists of, which of them are already there, and what changed since the last time.

Imports no torch, Ray or polars: a plan can be printed on a laptop that has none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.storage import Storage
from configs.errors import ConfigError, illegal
from pipeline.audit import keys as audit_keys
from pipeline.config import RunConfig
from pipeline.encode import keys as encode_keys
from pipeline.evaluate import keys as evaluate_keys
from pipeline.evaluate.config import Baseline
from pipeline.prepare import keys as prepare_keys
from pipeline.profile import keys as profile_keys
from pipeline.reduce import keys as reduce_keys
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact, StageKey
from pipeline.store.digests import DigestCache
from pipeline.train import keys as train_keys
from pipeline.train.config import Arm

STAGES = ("prepare", "profile", "encode", "audit", "reduce", "train", "evaluate", "report")
"""In build order; `audit` is part of a run only where it is asked for."""


@dataclass(frozen=True)
class Step:
    """One artifact of a run."""

    label: str
    """Unique in the run: ``prepare``, ``train/distilled/seed-0``, ``evaluate/baseline/ease``."""
    key: StageKey
    arm: Arm | None = None
    seed: int | None = None
    baseline: Baseline | None = None


@dataclass(frozen=True)
class PlannedStep:
    """A step and what a run would do with it."""

    step: Step
    status: Literal["reuse", "build"]
    artifact: Artifact | None = None
    changed: list[str] = field(default_factory=list)
    """``name: old → new`` for every key that differs from this run's last artifact of the same label."""

    @property
    def stage(self) -> str:
        return self.step.key.stage

    @property
    def label(self) -> str:
        return self.step.label

    @property
    def key(self) -> StageKey:
        return self.step.key


def run_folder(config: RunConfig) -> str:
    """The run's folder below the storage root."""
    return f"runs/{config.name}"


def steps(config: RunConfig, storage: Storage, audit: bool = False) -> Iterator[Step]:
    """Every artifact of the run in build order. Keys need only configs and raw bytes, never built artifacts.

    Args:
        audit: include the teacher audit, and the profiles it is about even where no arm has a teacher.
    """
    digests = DigestCache(storage)
    prepare = prepare_keys.key(config.prepare, digests)
    yield Step("prepare", prepare)
    taught = any(arm != "plain" for arm in config.arms)
    encode_fp = encode_items_fp = reduce_fp = items_fp = ""
    if taught or audit:
        profile = profile_keys.key(config.profile, prepare.fingerprint, digests)
        yield Step("profile", profile)
        encode = encode_keys.key(config.encode, profile.fingerprint, digests)
        yield Step("encode", encode)
        encode_fp = encode.fingerprint
    if config.train.item_init is not None or audit:
        encode = encode_keys.items_key(config.encode, prepare.fingerprint, digests)
        yield Step("encode/items", encode)
        encode_items_fp = encode.fingerprint
    if audit:
        yield Step("audit", audit_keys.key(config.audit, prepare.fingerprint, encode_fp, encode_items_fp))
    if taught:
        reduce = reduce_keys.key(config.reduce, encode_fp)
        yield Step("reduce", reduce)
        reduce_fp = reduce.fingerprint
    if config.train.item_init is not None:
        reduce = reduce_keys.key(config.item_reduce(), encode_items_fp)
        yield Step("reduce/items", reduce)
        items_fp = reduce.fingerprint
    trained: list[Step] = []
    for seed in config.seeds:
        for arm in config.arms:
            key = train_keys.key(config.train, config.model, arm, seed, prepare.fingerprint,
                                 reduce_fp or None, items_fp or None)
            trained.append(Step(f"train/{arm}/seed-{seed}", key, arm, seed))
    yield from trained
    for step in trained:
        key = evaluate_keys.key(config.evaluate, prepare.fingerprint, step.key.fingerprint)
        yield Step(f"evaluate/{step.arm}/seed-{step.seed}", key, step.arm, step.seed)
    for name in config.evaluate.baselines:
        key = evaluate_keys.key(config.evaluate, prepare.fingerprint, f"baseline:{name}")
        yield Step(f"evaluate/baseline/{name}", key, baseline=name)


def plan(config: RunConfig, storage: Storage, until: str | None = None) -> list[PlannedStep]:
    """The steps up to and including stage ``until`` (None: all), each with what a run would do.

    The audit is planned only where ``until`` names it.

    Raises:
        ConfigError: ``until`` names no stage.
        ArtifactError: a finished artifact is damaged.
    """
    if until is not None and until not in STAGES:
        raise ConfigError(illegal("stage", until, STAGES))
    last = STAGES.index(until) if until else len(STAGES)
    known = _references(config, storage)
    planned = []
    for step in steps(config, storage, audit=until == "audit"):
        if STAGES.index(step.key.stage) > last:
            continue
        artifact = artifacts.find(storage, step.key)
        changed = [] if artifact else _changed(storage, step, known.get(step.label))
        planned.append(PlannedStep(step, "reuse" if artifact else "build", artifact, changed))
    return planned


def built_audit(config: RunConfig, storage: Storage) -> Artifact | None:
    """The finished audit of the run's teacher, where there is one."""
    if all(arm == "plain" for arm in config.arms):
        return None  # no profile of this run would be audited
    step = next(step for step in steps(config, storage, audit=True) if step.label == "audit")
    return artifacts.find(storage, step.key)


def _references(config: RunConfig, storage: Storage) -> dict[str, Any]:
    path = f"{run_folder(config)}/references.json"
    return dict(storage.read_json(path)) if storage.exists(path) else {}


def _changed(storage: Storage, step: Step, old_fingerprint: str | None) -> list[str]:
    path = f"artifacts/{step.key.stage}/{old_fingerprint}/key.json"
    if old_fingerprint is None or old_fingerprint == step.key.fingerprint or not storage.exists(path):
        return []
    return artifacts.changed_keys(storage.read_json(path), step.key.values())
