"""The Beauty data and the settings that every benchmark on it shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.config import StorageConfig
from cluster.storage import Storage
from models.config import SASRecConfig
from pipeline.prepare.config import PrepareConfig, SequencesSource
from pipeline.prepare.keys import key
from pipeline.store.artifacts import Artifact, begin, find
from pipeline.store.columns import ITEM_IDX

HYPERPARAMETERS: dict[str, Any] = {"dim": 64, "blocks": 2, "heads": 1, "dropout": 0.2, "max_length": 50,
                                   "batch_size": 128, "lr": 1e-3, "seed": 0}


def prepare_beauty(root: Path) -> Artifact:
    """Beauty 5-core, leave-one-out, prepared once below ``root``."""
    from pipeline.prepare.stage import prepare

    storage = Storage.from_config(StorageConfig(uri=str(root)))
    config = PrepareConfig(source=SequencesSource())
    stage_key = key(config)
    return find(storage, stage_key) or prepare(config, begin(storage, stage_key))


def student(given: dict[str, Any]) -> SASRecConfig:
    """The model of these hyperparameters."""
    return SASRecConfig(hidden_dim=given["dim"], num_blocks=given["blocks"], num_heads=given["heads"],
                        dropout=given["dropout"], max_length=given["max_length"])


def driver_settings(prepared: Artifact, scratch: Path, **more: Any) -> dict[str, Any]:
    """What a driver of ours is told; ``more`` goes over the defaults."""
    return {**HYPERPARAMETERS, "threads": 1, "scratch": str(scratch), "storage": prepared.storage.path(""),
            "prepared": prepared.fingerprint, "num_items": num_items(prepared), "loss": {"kind": "softmax"},
            "optimizer": {}, "precision": "fp32", "rank_precision": "fp32", **more}


def num_items(prepared: Artifact) -> int:
    """Size of the catalogue."""
    return len(prepared.read_table("items.parquet", [ITEM_IDX]))
