"""The `train` stage: prepared sequences and teacher targets → an exported recommender."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from cluster.machine import cpu_count
from configs.errors import ArtifactError, ConfigError, ResourceError, TrainingError, illegal
from models.base import ITEM_PARAMETER
from models.config import ModelConfig, SoftmaxLoss
from models.item_init import place_untrained
from models.matmul import HAS_BF16
from models.students import build_encoder
from pipeline.reduce.definition import TARGETS
from pipeline.store.arrays import cases
from pipeline.store.arrow import numbers, open_arrow
from pipeline.store.artifacts import Artifact, ArtifactDir
from pipeline.store.columns import ITEM_ID, ITEM_IDX
from pipeline.train.bar import EpochBar, follow
from pipeline.train.checkpoint import Outcome, Progress, read_outcome
from pipeline.train.config import Arm, TrainConfig
from pipeline.train.data import TrainingRows
from pipeline.train.ensemble_baselines import baseline_file
from pipeline.train.export import save_model
from pipeline.train.initial import Start
from pipeline.train.inputs import (
    INITIAL_FILE,
    MADE_FILE,
    NEIGHBOURS_FILE,
    TARGETS_FILE,
    TEXTS_FILE,
    write_inputs,
)
from pipeline.train.item_vectors import ItemVectors
from pipeline.train.loop import FAILURE, train_loop
from pipeline.train.metrics_log import LATEST_EPOCH, TENSORBOARD, MetricsLog
from pipeline.train.reading import PREFIX, READER, reader_of, save_reader
from pipeline.train.session import LocalSession
from pipeline.train.spec import TrainSpec
from pipeline.train.targets import TargetShape
from pipeline.train.validation import Validator
from pipeline.work.progress import complain, say, took
from pipeline.work.threads import torch_threads

_MANY_ITEMS = 50_000
"""From so many on, a table that is updated whole in every step is worth a word."""
WORK, CHECKPOINTS, RAY = "work", "checkpoints", "ray"
"""Folders of an attempt that the finished artifact does not keep."""
OnEpoch = Callable[[dict[str, Any]], None]


def train(config: TrainConfig, model: ModelConfig, arm: Arm, seed: int, prepared: Artifact, targets: Artifact | None,
          out: ArtifactDir, on_epoch: OnEpoch | None = None, item_vectors: Artifact | None = None,
          item_texts: Artifact | None = None, members: Sequence[Artifact] = ()) -> Artifact:
    """Train one arm with one seed.

    An attempt that was killed goes on from its last whole checkpoint. The test split is never opened.

    Args:
        config: training settings.
        model: the student.
        arm: which teacher, if any.
        seed: of initial weights, order, masks, dropout and controls.
        prepared: the `prepare` artifact.
        targets: the `reduce` artifact; None for the plain arm.
        out: the attempt.
        on_epoch: called after every epoch with its record, in this process, where what it raises ends the training and
            its checkpoints stay. With workers it is called in a thread, of epochs that follow one another within a
            second (on a remote storage five) with the newest alone, and what it raises is lost.
        item_vectors: the items' `reduce` artifact; for ``config.item_init`` alone.
        item_texts: the items' `encode` artifact; for ``config.reads_texts`` alone.
        members: `train` artifacts, in the order of ``config.ensemble.members``.

    Returns:
        The artifact: ``model/``, ``metrics.jsonl``, ``tensorboard/``.

    Raises:
        ConfigError: the distilled block does not exist, a teacher is missing.
        DataError: no training rows, or unusable profile vectors.
        TrainingError: a loss or gradient became NaN or Inf, or workers kept failing.
        ArtifactError: ``init_from`` does not fit.
        ResourceError: no GPU, or no room for the workers.
    """
    _check(config, model, arm, targets)
    _check_inputs(config, item_vectors, item_texts, members)
    for name in (FAILURE, LATEST_EPOCH):  # of an earlier call
        out.storage.delete(out.relative(name))
    items = prepared.read_table("items.parquet", [ITEM_IDX, ITEM_ID])
    if not np.array_equal(numbers(items[ITEM_IDX]), np.arange(1, len(items) + 1)):
        raise ArtifactError(f"{prepared.relative('items.parquet')}: items are not numbered 1…n in order; "
                            "rebuild the prepare artifact")
    rows = TrainingRows.open(prepared.local("train.arrow"), build_encoder(model, 1, seed))  # whatever the catalogue
    with out.storage.upload_folder(out.relative(WORK)) as work:
        given = write_inputs(config, model, arm, seed, rows, items[ITEM_ID], targets, item_vectors, item_texts, members,
                             out.storage, work)
    shape, written = given.shape, {name: out.relative(f"{WORK}/{name}") for name in given.files}
    spec = TrainSpec(
        config=config, model=model, arm=arm, seed=seed, fingerprint=out.key.fingerprint, num_items=len(items),
        profile_dim=shape.profile_dim, num_angles=shape.num_angles, folder=out.folder,
        train=prepared.relative("train.arrow"), validation=prepared.relative("validation.arrow"),
        users=prepared.relative("users.parquet"),
        targets=written.get(TARGETS_FILE), vectors=written.get(MADE_FILE, targets and targets.relative(TARGETS)),
        neighbours=written.get(NEIGHBOURS_FILE), initial=written.get(INITIAL_FILE), texts=written.get(TEXTS_FILE),
        members=tuple(member.relative("model") for member in members),
        baselines=tuple(written[baseline_file(place)]
                        for place in range(len(config.ensemble.baselines) if config.ensemble else 0)),
        member_readers=tuple(member.relative(READER) if READER in member.manifest.files else None
                             for member in members))
    users = config.users_per_batch(len(rows))
    if config.batch_size is None:
        say(f"train: {users} of {len(rows):,} users per batch (train.batch_size is not set)")
    num_validation = len(open_arrow(prepared.local("validation.arrow")))
    if not num_validation and config.early_stopping.patience_epochs:
        say(f"train: nobody to validate on: all {config.epochs} epochs are trained and the last one is kept; choose "
            "train.epochs yourself, or a split with validation users")
    if len(items) >= _MANY_ITEMS and not isinstance(config.loss, SoftmaxLoss) and config.optimizer.table == "dense":
        say(f"train: every step updates, and workers exchange, all {len(items):,} rows of the item table; with "
            "train.optimizer.table=rowwise only those that it reads, to the same weights up to rounding")
    last = _run(spec, out, on_epoch)
    say(_summary(spec, last.progress))
    placed, placed_validation = 0, None
    if config.place_untrained and given.texts is not None:
        placed = _place_untrained(last, given.texts, rows.target_counts(len(items)) > 0, config.place_scale)
    if placed and num_validation and config.profile_input is None:
        placed_validation = _validate_placed(spec, last, placed, prepared)
    if spec.config.profile_input is not None:
        _export_reader(spec, last, out)
    _export(spec, last, items[ITEM_ID], placed_validation or last.progress.best_metrics, out)
    for name in (WORK, CHECKPOINTS, RAY, LATEST_EPOCH):
        out.storage.delete(out.relative(name))
    counts = {"num_in": len(rows.sequences), "num_out": len(rows), "num_rejected": rows.num_skipped,
              "num_profiled": shape.num_profiled, "num_validation": num_validation}
    return out.commit(counts, info=_info(spec, last.progress, shape, given.start) | {
        "placed_items": placed, "placed_validation": placed_validation, "users_per_batch": users})


def _check(config: TrainConfig, model: ModelConfig, arm: Arm, targets: Artifact | None) -> None:
    if (arm != "plain" or config.profile_input is not None) and targets is None:
        raise ConfigError(f"arm {arm!r} needs the `reduce` artifact; only a plain arm that reads no profiles does "
                          "without")
    if arm != "plain" and config.distillation.layer >= model.num_blocks:
        raise ConfigError(illegal("train.distillation.layer", config.distillation.layer, f"0…{model.num_blocks - 1}",
                                  "it is the 0-based index of a block of the model"))
    if config.execution.shard_item_table and config.execution.most_workers < 2:
        raise ConfigError(illegal("train.execution.shard_item_table", True, "with num_workers of 2 or more",
                                  "one worker holds the whole table; add workers, or set it to false"))
    if _lacks_bf16(config):
        say("train.precision=bf16: this CPU has no products of bf16; training in fp32")
    if config.execution.use_gpu and not config.execution.most_workers and not torch.cuda.is_available():
        raise ResourceError("train.execution.use_gpu: torch sees no GPU in this process; set it to false, or train "
                            "with num_workers of 1 or more on a cluster that has one")


def _lacks_bf16(config: TrainConfig) -> bool:
    """Whether bf16 is asked for where this machine has no products of it."""
    return config.precision == "bf16" and not config.execution.use_gpu and not HAS_BF16


def _check_inputs(config: TrainConfig, item_vectors: Artifact | None, item_texts: Artifact | None,
                  members: Sequence[Artifact]) -> None:
    pairs = {
        "train.item_init and the `reduce/items` artifact": (config.item_init is not None, item_vectors is not None),
        "train's settings that read texts and the `encode/items` artifact": (
            config.reads_texts, item_texts is not None),
        "train.ensemble and its members' `train` artifacts": (
            len(config.ensemble.members) if config.ensemble else 0, len(members))}
    for what, (asked, given) in pairs.items():
        if asked != given:
            raise ConfigError(f"{what} go together: give both or neither")


def _run(spec: TrainSpec, out: ArtifactDir, on_epoch: OnEpoch | None) -> Outcome:
    """Train to the end."""
    bar = EpochBar("train", spec.config.epochs, spec.config.validation_metric)
    here = spec.config.execution.most_workers == 0
    own, other = (CHECKPOINTS, RAY) if here else (RAY, CHECKPOINTS)
    if out.storage.names(out.relative(other)) and not out.storage.names(out.relative(own)):
        complain(f"train: this attempt was begun {'on Ray' if here else 'without Ray'} (train.execution.num_workers), "
                 "whose checkpoints are not read here: it begins anew")

    def report(record: dict[str, Any]) -> None:
        bar.show(record)
        if on_epoch is not None:
            on_epoch(record)

    try:
        if here:
            return _run_here(spec, out, report)
        from pipeline.train.ray_session import fit  # training in this process needs no Ray

        with follow(report, out):
            return fit(spec, out.storage, out.relative(RAY))
    finally:
        bar.close()


def _summary(spec: TrainSpec, progress: Progress) -> str:
    metric, best = spec.config.validation_metric, progress.best_metrics
    reached = f": {metric} {best[metric]:.4f} on validation" if best else ""
    return (f"train: {took(progress.epochs, 'epochs', progress.seconds)}; the best is epoch "
            f"{progress.best_epoch}{reached}")


def _run_here(spec: TrainSpec, out: ArtifactDir, report: OnEpoch) -> Outcome:
    execution = spec.config.execution
    device = torch.device("cuda" if execution.use_gpu else "cpu")
    session = LocalSession(out.storage, out.relative(CHECKPOINTS), device, report)
    with (torch_threads(execution.threads_per_worker), tempfile.TemporaryDirectory() as scratch,
          torch.random.fork_rng([device] if execution.use_gpu else [])):
        train_loop(session, spec, out.storage, Path(out.path("")) if out.storage.is_local else Path(scratch))
    last = session.latest_checkpoint()
    if last is None:
        raise TrainingError(f"the last checkpoint in {out.path(CHECKPOINTS)} is damaged; run the same command again")
    return read_outcome(last, spec.fingerprint)


def _place_untrained(last: Outcome, texts: ItemVectors, trained_V: np.ndarray, scale: float) -> int:
    """Put them where their texts say, in the parameters that are exported; returns how many."""
    table_XD = last.best[ITEM_PARAMETER]
    items = slice(1, len(trained_V) + 1)
    vectors_VE, known_V = torch.from_numpy(texts.vectors_VE), torch.from_numpy(texts.known_V)
    rows_VD, placed = place_untrained(table_XD[items], vectors_VE, known_V, torch.from_numpy(trained_V), scale)
    last.best[ITEM_PARAMETER] = torch.cat([table_XD[:1], rows_VD, table_XD[items.stop:]])
    return placed


def _validate_placed(spec: TrainSpec, last: Outcome, placed: int, prepared: Artifact) -> dict[str, float]:
    """Validation once more, of the parameters that are exported: placed items stand before others now."""
    encoder = build_encoder(spec.model, spec.num_items, spec.seed)
    encoder.load_state_dict(last.best)
    encoder.eval()
    device = torch.device("cuda" if spec.config.execution.use_gpu and torch.cuda.is_available() else "cpu")
    with torch_threads(spec.config.execution.threads_per_worker):
        found = Validator(cases(prepared.local("validation.arrow")), spec.config, spec.seed, 0, 1)(
            encoder.to(device), device)
    metric, before = spec.config.validation_metric, last.progress.best_metrics
    assert before is not None, "there are validation users"
    say(f"train: {placed:,} items that training never asked for placed by their texts: {metric} on validation "
        f"{before[metric]:.4f} → {found[metric]:.4f}")
    return found


def _export_reader(spec: TrainSpec, last: Outcome, out: ArtifactDir) -> None:
    """Keep what the recommender reads of profiles beside its model, which does without."""
    assert spec.config.profile_input is not None
    reader = reader_of(spec.open_targets(out.storage), spec.model.hidden_dim, spec.config.profile_input.dropout)
    with out.storage.upload_folder(out.folder) as folder:
        save_reader(folder / READER, reader, last.best.pop(f"{PREFIX}map_DP"))


def _export(spec: TrainSpec, last: Outcome, item_ids: pa.ChunkedArray, validation: dict[str, float] | None,
            out: ArtifactDir) -> None:
    with out.storage.upload_folder(out.relative("model")) as folder:
        save_model(folder, last.best, spec.model, item_ids, {
            "fingerprint": spec.fingerprint, "arm": spec.arm, "seed": spec.seed,
            "best_epoch": last.progress.best_epoch, "validation": validation})
    if not out.storage.is_local:  # there the log has been written in place
        out.storage.delete(out.relative(TENSORBOARD))  # of a call that was killed here: each has a name of its own
        with out.storage.upload_folder(out.folder) as folder:
            MetricsLog(folder, last.metrics).close()


def _info(spec: TrainSpec, progress: Progress, shape: TargetShape, start: Start | None) -> dict[str, Any]:
    execution, best = spec.config.execution, progress.best_metrics
    info: dict[str, Any] = {
        "arm": spec.arm, "seed": spec.seed, "best_epoch": progress.best_epoch,
        "validation_metric": spec.config.validation_metric,
        "best_validation": best[spec.config.validation_metric] if best else None, "validation": best,
        "history": progress.history, "epochs": progress.epochs, "steps": progress.steps,
        "stopped_early": progress.stopped_early, "seconds": progress.seconds,
        "world_sizes": progress.world_sizes,
        "host": {"torch": torch.__version__, "device": "cuda" if execution.use_gpu else "cpu", "cpus": cpu_count(),
                 "precision": "fp32" if _lacks_bf16(spec.config) else spec.config.precision},
    }
    if shape.num_profiled:
        info["teacher"] = {"users": shape.num_profiled, "angles": shape.num_angles, "width": shape.profile_dim}
    if start is not None:
        info["start"] = {"model": spec.config.init_from, "matched_items": start.matched,
                         "items_from_text": start.from_text, "fresh_items": start.fresh}
    return info
