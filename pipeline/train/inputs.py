"""What a training needs beside its sequences, written to where its workers read it: whose vectors stand where, the
weights to start from, the items' texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cluster.storage import Storage
from models.config import ModelConfig, NeighboursTarget
from pipeline.reduce.definition import ITEM_VECTORS, TARGETS
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import ITEM_IDX, VECTOR
from pipeline.store.tensors import save_file
from pipeline.store.vectors import VectorRows
from pipeline.train.collaborative import TrainingMatrix
from pipeline.train.config import Arm, TrainConfig
from pipeline.train.data import TrainingRows
from pipeline.train.dense_targets import MADE_ARMS, build_targets
from pipeline.train.ensemble_baselines import write_baselines
from pipeline.train.initial import Start, fresh_start, model_folder, text_start, trained_start
from pipeline.train.item_vectors import ItemVectors
from pipeline.train.neighbours import write_neighbours
from pipeline.train.targets import Targets, TargetShape
from pipeline.train.teaching_config import MappedTextTable

TARGETS_FILE, MADE_FILE, NEIGHBOURS_FILE = "targets.safetensors", "vectors.safetensors", "neighbours.safetensors"
INITIAL_FILE, TEXTS_FILE = "initial.safetensors", "texts.safetensors"


@dataclass(frozen=True)
class Inputs:
    """What :func:`write_inputs` found and wrote."""

    shape: TargetShape = TargetShape(0, 0, 0)
    """Of the targets; of nobody where there are none."""
    start: Start | None = None
    texts: ItemVectors | None = None
    """Of the start, of the table that is mapped from them, or of the untrained items alone."""
    files: tuple[str, ...] = ()
    """The names of what was written. ``TARGETS_FILE`` without ``MADE_FILE``: the vectors are those of `reduce`."""


def write_inputs(config: TrainConfig, model: ModelConfig, arm: Arm, seed: int, rows: TrainingRows,
                 item_ids: pa.ChunkedArray, targets: Artifact | None, item_vectors: Artifact | None,
                 item_texts: Artifact | None, members: Sequence[Artifact], storage: Storage, work: Path) -> Inputs:
    """Write one arm's files to ``work``; the arguments are those of :func:`pipeline.train.stage.train`.

    Raises:
        DataError: unusable vectors.
        ArtifactError: ``init_from`` does not fit.
    """
    matrix = TrainingMatrix(rows, len(item_ids), seed)
    shape = TargetShape(0, 0, 0)
    if targets is not None and (arm != "plain" or config.profile_input is not None):
        whose, target = _whose_profiles(config, arm), config.distillation.target
        shape = build_targets(
            VectorRows.open(targets.local(TARGETS)), targets.manifest.info["angles"], rows.users_N, whose, seed,
            config.profile_input is not None or config.distillation.standardize_targets, work / TARGETS_FILE,
            work / MADE_FILE, matrix)
        if arm != "plain" and isinstance(target, NeighboursTarget):
            vectors = work / MADE_FILE if whose in MADE_ARMS else targets.local(TARGETS)
            write_neighbours(Targets.open(work / TARGETS_FILE, vectors), target.neighbours, work / NEIGHBOURS_FILE)
    start, texts = None, None
    if config.init_from is not None:
        start = trained_start(model_folder(storage, config.init_from), model, item_ids, seed)
    elif config.ensemble is not None and config.ensemble.start is not None:
        start = trained_start(members[config.ensemble.start].local("model"), model, item_ids, seed)
    if item_vectors is not None and config.item_init is not None:
        reduced = VectorRows.open(item_vectors.local(ITEM_VECTORS), ITEM_IDX)
        texts = ItemVectors.of(reduced.owners_N, reduced.vectors_NP, len(item_ids)).controlled(
            config.item_init.control, seed, matrix)
        start = text_start(start or fresh_start(model, len(item_ids), seed), texts)
    if start is not None:
        save_file(start.encoder.state_dict(), work / INITIAL_FILE)
    own = None
    if item_texts is not None:
        own = ItemVectors.from_table(item_texts.read_table("vectors", [ITEM_IDX, VECTOR]), len(item_ids))
    if own is not None and isinstance(config.item_table, MappedTextTable):
        texts = own.controlled(config.item_table.control, seed, matrix)
        texts.save(work / TEXTS_FILE)
    elif config.place_untrained and texts is None:
        texts = own
    if config.ensemble is not None:
        write_baselines(config.ensemble.baselines, rows.sequences, own, seed, matrix, work)
    return Inputs(shape, start, texts, tuple(sorted(path.name for path in work.iterdir())))


def _whose_profiles(config: TrainConfig, arm: Arm) -> Arm:
    """The arm whose vectors are built: its own, or what the profiles that are read stand for."""
    if config.profile_input is None:
        return arm
    return "distilled" if config.profile_input.control == "none" else config.profile_input.control
