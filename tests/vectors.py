"""Files of `reduce` and `encode` made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.storage import Storage
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact, ArtifactDir, StageKey
from pipeline.store.columns import ITEM_IDX, USER_IDX, VECTOR
from pipeline.store.vectors import VectorRows, vector_writer
from pipeline.train.dense_targets import build_targets
from pipeline.train.targets import Targets, TargetShape

Row = tuple[int, str, Sequence[float]]
"""User, angle, vector."""


def vector_rows(rows: Sequence[Row]) -> tuple[VectorRows, list[str]]:
    """Vectors in the order given, and their angles' names."""
    names = sorted({angle for _, angle, _ in rows})
    return VectorRows(np.array([user for user, _, _ in rows], np.int64),
                      np.array([names.index(angle) for _, angle, _ in rows], np.int16),
                      np.array([vector for _, _, vector in rows], np.float32)), names


def write_targets(out: ArtifactDir, rows: VectorRows) -> None:
    """``targets.safetensors`` of an attempt."""
    _write(out, "targets.safetensors", USER_IDX, rows)


def write_items(out: ArtifactDir, items: Sequence[int], vectors_TE: np.ndarray) -> None:
    """``items.safetensors`` of an attempt."""
    _write(out, "items.safetensors", ITEM_IDX, VectorRows(
        np.array(items), np.zeros(len(items), np.int16), vectors_TE.astype(np.float32)))


def encoded_items(storage: Storage, rows_TE: np.ndarray, items: Sequence[int]) -> Artifact:
    """An `encode/items` artifact."""
    out = artifacts.begin(storage, StageKey("encode", 1, {"rows": rows_TE.tolist(), "items": list(items)}))
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows_TE.astype(np.float32).reshape(-1)), rows_TE.shape[1])
    out.write_table("vectors/part-0.parquet", pa.table({ITEM_IDX: pa.array(items, pa.int32()), VECTOR: column}))
    return out.commit({})


def read_targets(artifact: Artifact) -> VectorRows:
    """What a `reduce` artifact of users holds."""
    return VectorRows.open(artifact.local("targets.safetensors"))


def built(rows: Sequence[Row], users_N: np.ndarray, folder: Path, arm: str = "distilled", seed: int = 0,
          standardize: bool = False, train: object = None) -> tuple[Targets, TargetShape]:
    """The targets of one arm, written below a folder and opened for training rows of these users."""
    given, names = vector_rows(rows)
    source, path, made = (folder / f"{name}.safetensors" for name in ("given", "targets", "made"))
    with vector_writer(source, USER_IDX, given.owners_N, given.angle_N, given.vectors_NP.shape[1]) as write:
        write(given.vectors_NP)
    made.unlink(missing_ok=True)
    shape = build_targets(VectorRows.open(source), names, users_N, arm, seed, standardize, path, made, train)  # type: ignore[arg-type]
    return Targets.open(path, made if made.exists() else source, users_N), shape


def _write(out: ArtifactDir, file: str, owner: str, rows: VectorRows) -> None:
    with (out.storage.upload_folder(out.folder) as folder,
          vector_writer(folder / file, owner, rows.owners_N, rows.angle_N, rows.vectors_NP.shape[1]) as write):
        write(rows.vectors_NP)
