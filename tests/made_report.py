"""A run made by hand, with figures from a seeded generator, and a look at the report that is written of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import save

from cluster.storage import Storage
from models.sequences import Sequences
from pipeline.config import RunConfig
from pipeline.report.inputs import ReportInputs
from pipeline.store import artifacts
from pipeline.store.arrays import cases
from pipeline.store.artifacts import Artifact, StageKey
from pipeline.store.columns import ANGLE, COUNT, PROFILE, RANK, RANK_UNFILTERED, REASON, TARGET, USER_IDX, VECTOR
from tests.builders import make_prepared

EPOCHS, DISTIL, TOP = 6, 3, 20
HOSTILE = "<script>alert(1)</script> | *50 %* [x](http://e.vil) `$a_b$`"
Written = tuple[Path, dict[str, Any], ReportInputs]
"""A report's folder, its metrics, and what they come from."""


def run_config(**changes: Any) -> RunConfig:
    return RunConfig.model_validate({
        "name": "made-by-hand", "arms": ["plain", "distilled", "shuffled"], "seeds": [0, 1, 2],
        "train": {"epochs": EPOCHS, "distill_epochs": DISTIL, "batch_size": 32, "alpha": 0.5,
                  "alpha_schedule": "linear"},
        "report": {"bootstrap_samples": 200, "sample_users": 4}, **changes})


def inputs_of(storage: Storage, config: RunConfig, users: int = 150, items: int = 40, width: int = 6,
              cold: dict[int, str] | None = None) -> ReportInputs:
    """Artifacts of every stage with figures from a seeded generator; ``distilled`` ranks a little better."""
    rng = np.random.default_rng(0)
    walks = [rng.integers(1, items + 1, size=rng.integers(3, 12)).tolist() for _ in range(users)]
    prepared = make_prepared(storage, Sequences.from_lists(walks), items=items, cold=cold)
    skill = {"plain": 0.0, "distilled": 0.15, "shuffled": 0.0, "random": 0.0}
    trained, evaluated = {}, {}
    ease = rng.uniform(size=len(cases(prepared.local("test.arrow"))))
    for arm in config.arms:
        for seed in config.seeds:
            trained[arm, seed] = train_artifact(storage, config, arm, seed, rng)
            evaluated[arm, seed] = evaluate_artifact(storage, prepared, f"{arm}-{seed}", ease - skill[arm], rng, items)
    baselines = {name: evaluate_artifact(storage, prepared, name, ease + 0.2, rng, items)
                 for name in ("popularity", "transitions")}
    baselines["item_knn"] = commit(storage, "evaluate", {}, {}, {"skipped": "too many items"}, {"subject": "item_knn"})
    if config.arms == ("plain",):
        return ReportInputs(prepared, None, None, None, trained, evaluated, baselines)
    profiles = commit(storage, "profile", {
        "profiles/part-0.parquet": pa.table({
            USER_IDX: np.arange(1, users), ANGLE: ["overall"] * (users - 1),
            PROFILE: [f"Likes things number {u}.\n\nSecond paragraph {HOSTILE}" for u in range(1, users)]}),
        "rejected.parquet": pa.table({USER_IDX: [0], ANGLE: ["overall"], REASON: ["no signals"]})},
        {"num_in": users, "num_out": users - 1, "num_rejected": 1},
        {"engine": "keywords", "form": "long", "angles": ["overall"], "rejected_by_reason": {"no signals": 1}})
    encoded = commit(storage, "encode", {
        "vectors/part-0.parquet": pa.table({USER_IDX: np.arange(1, users), ANGLE: ["overall"] * (users - 1),
                                            "tokens": np.arange(1, users, dtype=np.int32),
                                            "over_length": np.arange(1, users) > 100})},
        {}, {}, {"model": "made/by-hand", "revision": None, "prefix": "query: "})
    vectors = rng.normal(size=((users - 1), width)).astype(np.float32)
    targets = commit(storage, "reduce", {}, {}, {
        "width": width, "angles": ["overall"], "method": "pca", "whitened": False, "fit_rows": users - 1,
        "quality": {"rows": 100, "neighbors": 10, "trustworthiness": 0.91234567, "neighbor_overlap": 0.41234567,
                    "variance": [1.0] * width, "mean_variance": 1.0, "effective_dimensions": 5.5}},
        files={"targets.safetensors": save({USER_IDX: np.arange(1, users), ANGLE: np.zeros(users - 1, np.int16),
                                            VECTOR: vectors})})
    return ReportInputs(prepared, profiles, encoded, targets, trained, evaluated, baselines, {"ease": "40 items"})


def commit(storage: Storage, stage: str, tables: dict[str, pa.Table], counts: dict[str, int], info: dict[str, Any],
           config: dict[str, Any] | None = None, files: dict[str, bytes] | None = None) -> Artifact:
    key = StageKey(stage, 1, config or {"made": [*tables, *counts, str(info)]})
    out = artifacts.begin(storage, key)
    for name, table in tables.items():
        out.write_table(name, table)
    for name, data in (files or {}).items():
        storage.write_bytes(out.relative(name), data)
    return out.commit(counts, info=info)


def train_artifact(storage: Storage, config: RunConfig, arm: str, seed: int, rng: np.random.Generator) -> Artifact:
    records: list[dict[str, Any]] = [{"kind": "step", "epoch": 1, "step": 1, "ranking": 4.0}]
    for epoch in range(1, EPOCHS + 1):
        record = {"kind": "epoch", "epoch": epoch, "step": 10 * epoch, "phase": 1 if epoch <= DISTIL else 2,
                  "ranking": 4.0 / epoch, "ndcg@10": 0.02 * epoch - 0.002 * epoch**2, "gradient_norm": 1.0}
        if arm != "plain" and epoch <= DISTIL:
            record |= {"distillation": 2.0 / epoch, "beta": 1.0 + rng.uniform(), "student_variance": 0.5,
                       "teacher_variance": 0.9, "retrieval": 0.1 * epoch, "retrieval_by_chance": 0.04}
        records.append(record)
    data = b"".join(json.dumps(r).encode() + b"\n" for r in records)
    info = {"best_epoch": 5, "best_validation": 0.05, "seconds": 12.3456, "epochs": EPOCHS, "world_sizes": [1],
            "stopped_early": False}
    return commit(storage, "train", {}, {}, info, {"arm": arm, "seed": seed}, {"metrics.jsonl": data})


def evaluate_artifact(storage: Storage, prepared: Artifact, subject: str, hardness: np.ndarray,
                      rng: np.random.Generator, items: int) -> Artifact:
    """Ranks grow with the user's ``hardness``; rows are stored in no order."""
    test = cases(prepared.local("test.arrow"))
    rank = np.clip((hardness + 0.1 * rng.normal(size=len(test))) * items, 0, items - 1).astype(np.int32) + 1
    counts = prepared.read_table("items.parquet", [COUNT])[COUNT].to_numpy()
    top = np.stack([rng.permutation(items)[:TOP] + 1 for _ in range(len(test))]).astype(np.int32)
    order = rng.permutation(len(test))
    lists = pa.FixedSizeListArray.from_arrays(pa.array(top[order].reshape(-1)), TOP)
    return commit(storage, "evaluate", {
        "ranks.parquet": pa.table({
            USER_IDX: test.users[order], TARGET: test.targets[order], RANK: rank[order],
            RANK_UNFILTERED: np.minimum(rank + 3, items).astype(np.int32)[order],
            "history_length": test.histories.lengths[order].astype(np.int32),
            "target_count": counts[test.targets - 1].astype(np.int32)[order]}),
        "top.parquet": pa.table({USER_IDX: test.users[order], "top": lists, "top_unfiltered": lists}),
    }, {}, {}, {"subject": subject})


def markdown_tables(text: str) -> dict[str, list[list[str]]]:
    """Heading → rows of cells, the header row first."""
    found: dict[str, list[list[str]]] = {}
    for heading, body in re.findall(r"^### (.+?)\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL):
        lines = [line for line in body.splitlines() if line.startswith("|")]
        rows = [[re.sub(r"\\(.)", r"\1", c).strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        found[heading] = [row for row in rows if not all(set(cell) <= {"-"} for cell in row)]
    return found
