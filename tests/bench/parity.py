"""Part `parity`: one worker and two train the same thing; 0, 1 and 2 workers rank the same users alike."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tests.bench.ratings import write_ratings
from tests.bench.sections import Section
from tests.bench.workshop import Workshop, done

STEPS, TOLERANCE = 50, 1e-4
STUDENTS, FORMS = ("sasrec", "bert4rec"), ("mse", "rmse")
USERS, BATCH = 300, 12
"""25 optimizer steps per epoch: the first phase of two epochs is STEPS long."""
CURVES = ("ranking", "distillation", "beta")
TRAINING = """
name: parity
arms: [distilled]
cluster: {num_cpus: 2}
profile:
  angles: [favourites]  # a user who rates nothing has none
  form: short
  max_rejected_fraction: 0.8
  execution: {actors: 1, num_cpus: 0.5}
encode:
  execution: {actors: 1, num_cpus: 0.5}
reduce:
  method: {kind: pca, components: 8}
  quality_rows: 50
train:
  alpha: 0.5
  beta: true
  epochs: 3
  distill_epochs: 2
  execution: {threads_per_worker: 1, log_every_steps: 1}
"""
MODEL = "{{kind: {student}, hidden_dim: 16, num_blocks: 2, num_heads: 1, dropout: 0.0, max_length: 8}}"
HERE = ("train.execution.num_workers=0",)
TWO = ("train.execution.num_workers=2", "train.execution.cpus_per_worker=0.5")
TEST_USERS = 9000
"""Three shards of test users."""
EVALUATION = """
name: ranks
arms: [plain]
cluster: {num_cpus: 2}
prepare:
  source: {kind: synthetic, items: 300, mean_length: 4}
model: {kind: sasrec, hidden_dim: 16, num_blocks: 1, num_heads: 1, max_length: 10}
train:
  epochs: 1
  distill_epochs: 0
  batch_size: 512
  validation_users: 500
  execution: {num_workers: 0}
evaluate:
  baselines: [popularity, transitions]
"""


def run(workshop: Workshop) -> Section:
    """Train with one worker and with two, rank with none, one and two; compare."""
    section = Section("One worker and two (point 7)",
                      f"Training: {len(STUDENTS)} students × {len(FORMS)} forms of L_distil, dropout 0, β on, global "
                      f"batch {BATCH}, {USERS} users of whom about a third has a profile. The one worker trains in the "
                      "driver's process (`num_workers=0`: the same loop without Ray's start), the two are Ray Train "
                      "workers (DDP, gloo), one torch thread each. Every optimizer step is logged; the loss curves are "
                      f"compared over the {STEPS} steps of the first phase. Evaluation: {TEST_USERS:,} test users in "
                      "three shards, ranked by a trained model and two baselines in the driver's process, by one and "
                      "by two Ray workers, each from a copy of the same trained artifact.")
    _training(section, workshop)
    _evaluation(section, workshop)
    return section


def _training(section: Section, workshop: Workshop) -> None:
    config = workshop.config("parity", TRAINING)
    source = write_ratings(workshop.folder / "parity-ratings", users=USERS, items=120, rated_share=0.35)
    args = ("-c", str(config), f"prepare.source={source}")
    done("reduce", *args)
    here, two = (workshop.copy("parity", name) for name in ("one-worker", "two-workers"))
    rows: list[tuple[object, ...]] = []
    lengths, worst = set(), dict.fromkeys(CURVES, 0.0)
    for student in STUDENTS:
        for form in FORMS:
            chosen = (f"model={MODEL.format(student=student)}",
                      f"train.distillation={{loss: {{kind: {form}}}, layer: 1}}", f"train.batch_size={BATCH}")
            seconds = []
            for storage, workers in ((here, HERE), (two, TWO)):
                started = time.perf_counter()
                done("train", *args, *chosen, *workers, f"storage.uri={storage}")
                seconds.append(time.perf_counter() - started)
            one_curve, two_curve = (_steps(storage, student, form) for storage in (here, two))
            largest = {name: _relative_difference(one_curve, two_curve, name) for name in CURVES}
            worst = {name: float(np.maximum(worst[name], largest[name])) for name in CURVES}  # NaN stays NaN
            lengths.add(len(one_curve))
            rows.append((student, form, len(one_curve), *(f"{largest[name]:.1e}" for name in CURVES),
                         *(f"{one_curve[-1][name]:.5f} / {two_curve[-1][name]:.5f}" for name in CURVES[:2]),
                         *(f"{value:.0f}" for value in seconds)))
    for name, what in (("ranking", "ranking loss"), ("distillation", "distillation loss")):
        section.check(f"{what}, 1 and 2 workers: largest relative difference over {STEPS} steps, all combinations",
                      f"≤ {TOLERANCE:g}", f"{worst[name]:.1e}", worst[name] <= TOLERANCE)
    section.check("steps compared", f"{STEPS} in each of {len(STUDENTS) * len(FORMS)} combinations",
                  f"{sorted(lengths)} in {len(rows)}", lengths == {STEPS})
    section.table("Largest relative difference of the curves, last step's losses (1 / 2 workers), command seconds",
                  ("student", "L_distil", "steps", *CURVES, "ranking at the end", "distillation at the end",
                   "1 worker, s", "2 workers, s"), rows)
    _coverage(section, here)


def _steps(storage: Path, student: str, form: str) -> list[dict[str, Any]]:
    """The logged steps of the first phase."""
    artifact = next(key.parent for key in storage.glob("artifacts/train/*/key.json")
                    if _chosen(json.loads(key.read_text())["config"]) == (student, form))
    log = next(artifact.glob("attempts/*/metrics.jsonl"))
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [record for record in records if record["kind"] == "step" and record["alpha"] > 0]


def _chosen(key: dict[str, Any]) -> tuple[str, str]:
    return key["model"]["kind"], key["train"]["distillation"]["loss"]["kind"]


def _relative_difference(one: Sequence[dict[str, Any]], two: Sequence[dict[str, Any]], name: str) -> float:
    """Largest |difference| over the curve, relative to the one worker's value at that step."""
    if len(one) != len(two):
        return float("inf")
    a, b = (np.array([record.get(name, 0.0) for record in curve]) for curve in (one, two))
    return float(np.max(np.abs(a - b) / np.maximum(np.abs(a), 1e-12)))


def _coverage(section: Section, storage: Path) -> None:
    """How many profiled users each of two ranks had in each step: the sampler's own order, the targets' own users."""
    from models.config import SASRecConfig
    from models.students import build_encoder
    from pipeline.store.vectors import VectorRows
    from pipeline.train.data import TrainingRows
    from pipeline.train.sampler import Sampler

    prepared = next(storage.glob("artifacts/prepare/*/attempts/*"))
    targets = next(storage.glob("artifacts/reduce/*/attempts/*/targets.safetensors"))
    items = pq.read_metadata(prepared / "items.parquet").num_rows
    encoder = build_encoder(SASRecConfig(hidden_dim=16, max_length=8), items, 0)
    rows = TrainingRows.open(prepared / "train.arrow", encoder)
    known = np.isin(rows.users_N, VectorRows.open(targets).owners_N)
    sampler = Sampler(rows.lengths_N, BATCH, 0)
    counts = np.array([[known[order.part(place, rank, 2)].sum() for rank in (0, 1)]
                       for order in map(sampler.epoch, (0, 1)) for place in range(len(order))])
    uneven, alone = int((counts[:, 0] != counts[:, 1]).sum()), int((counts.min(1) == 0).sum())
    section.check("profile coverage is uneven between the two ranks", "in most steps",
                  f"in {uneven} of {len(counts)} steps; in {alone} one rank had no profiled user; "
                  f"{int(known.sum())} of {len(known)} users have a profile", uneven > len(counts) / 2)


def _evaluation(section: Section, workshop: Workshop) -> None:
    config = str(workshop.config("ranks", EVALUATION))
    args = ("-c", config, f"prepare.source.users={TEST_USERS}")
    done("train", *args)
    digests, rows = [], []
    for workers in (0, 1, 2):
        storage = workshop.copy("ranks", f"ranks-{workers}")
        started = time.perf_counter()
        done("evaluate", *args, f"storage.uri={storage}", f"evaluate.execution.workers={workers}")
        digests.append(_evaluated(storage))
        rows += [(workers, subject, *found, f"{time.perf_counter() - started:.0f}")
                 for subject, found in digests[-1].items()]
    same = digests[0] == digests[1] == digests[2] and len(digests[0]) == 3
    section.check("evaluation with 0, 1 and 2 workers: ranks, recommendation lists and metrics of 3 recommenders",
                  "identical bytes", "identical" if same else "different", same)
    section.table("Evaluation (digests of the files)",
                  ("workers", "recommender", "ndcg@10", "ranks.parquet", "top.parquet", "metrics.json",
                   "command, s"), rows)


def _evaluated(storage: Path) -> dict[str, tuple[str, ...]]:
    """Recommender → NDCG@10 and the digests of the files of its `evaluate` artifact."""
    found = {}
    references = json.loads((storage / "runs" / "ranks" / "references.json").read_text())
    for label, fingerprint in references.items():
        if label.startswith("evaluate/"):
            folder = next(storage.glob(f"artifacts/evaluate/{fingerprint}/attempts/*"))
            metrics = json.loads((folder / "metrics.json").read_text())
            found[label.split("/", 1)[1]] = (
                f"{metrics[metrics['protocol']['main']]['ndcg@10']:.6f}",
                *(hashlib.blake2b((folder / name).read_bytes(), digest_size=6).hexdigest()
                  for name in ("ranks.parquet", "top.parquet", "metrics.json")))
    return found
