"""Small `prepare` and `reduce` artifacts, made directly to the file contract, and models trained on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.storage import Storage
from models.config import ModelConfig, SASRecConfig
from models.sequences import Sequences
from pipeline.prepare.definition import BEFORE, COLD, COLD_FILE, REMOVED
from pipeline.store import artifacts
from pipeline.store.arrow import write_arrow
from pipeline.store.artifacts import Artifact, StageKey, digest_ids
from pipeline.store.columns import (
    ATTRIBUTES,
    CATEGORY,
    COUNT,
    FIELDS,
    HISTORY,
    ITEM_ID,
    ITEM_IDX,
    ITEMS,
    POSITION,
    SIGNAL,
    SIGNALS,
    SPLIT,
    TARGET,
    TEST,
    TIMESTAMP,
    TIMESTAMPS,
    TITLE,
    TRAIN,
    USER_ID,
    USER_IDX,
    VALIDATION,
)
from pipeline.train.config import Arm, TrainConfig
from pipeline.train.keys import key as train_key
from tests.vectors import Row, vector_rows, write_targets

_STRING_MAP = pa.map_(pa.string(), pa.string())


def make_sequences(users: int = 60, items: int = 40, longest: int = 12, seed: int = 0) -> Sequences:
    """Random walks over the catalogue: the next item is mostly one of two neighbours, so there is something to learn.

    Lengths run from 1 to ``longest``.
    """
    rng = np.random.default_rng(seed)
    lists = []
    for _ in range(users):
        walk = [int(rng.integers(items))]
        for _ in range(int(rng.integers(1, longest + 1)) - 1):
            step = int(rng.choice([1, 2])) if rng.random() < 0.8 else int(rng.integers(items))
            walk.append((walk[-1] + step) % items)
        lists.append([item + 1 for item in walk])
    return Sequences.from_lists(lists)


def make_prepared(storage: Storage, sequences: Sequences | None = None, items: int = 40, prefix: str = "item",
                  cold: dict[int, str] | None = None) -> Artifact:
    """A `prepare` artifact with the leave-one-out split of ``sequences`` (users under 3 items only train).

    Args:
        storage: where it goes.
        sequences: one per user; None: :func:`make_sequences` over ``items``.
        items: size of the catalogue.
        prefix: of raw item ids (``item-1`` …).
        cold: item → REMOVED or CUT, for ``cold_items.parquet``; the sequences are as they are. Of the cut ones those
            of even index had more before.
    """
    chosen = make_sequences(items=items) if sequences is None else sequences
    walks = [walk.tolist() for walk in chosen]
    out = artifacts.begin(storage, StageKey("prepare", 1, {
        "walks": walks, "items": items, "prefix": prefix, "cold": sorted((cold or {}).items())}))
    held_out = [2 if len(walk) >= 3 else 0 for walk in walks]
    train = [walk[: len(walk) - n] for walk, n in zip(walks, held_out, strict=True)]
    counts = np.bincount(np.concatenate([np.array(w, np.int64) for w in train]), minlength=items + 1)[1:]
    item_ids = [f"{prefix}-{i}" for i in range(1, items + 1)]
    out.write_table("items.parquet", pa.table({
        ITEM_IDX: np.arange(1, items + 1, dtype=np.int32), ITEM_ID: item_ids,
        TITLE: [f"Title {i}" for i in range(1, items + 1)], CATEGORY: [f"category {i % 3}" for i in range(items)],
        FIELDS: pa.array([[("title", f"Title {i}")] for i in range(1, items + 1)], _STRING_MAP),
        COUNT: counts.astype(np.int32)}))
    out.write_table("users.parquet", pa.table({
        USER_IDX: np.arange(len(walks)), USER_ID: [f"user-{u}" for u in range(len(walks))],
        COUNT: np.array([len(w) for w in train], np.int32),
        ATTRIBUTES: pa.array([[] for _ in walks], _STRING_MAP)}))
    out.write_table("interactions.parquet", _interactions(walks, held_out))
    out.write_table("histories/part-00000.parquet", pa.table({
        USER_IDX: np.arange(len(walks)), ITEMS: pa.array(train, pa.list_(pa.int32())),
        SIGNALS: pa.array([[5.0] * len(w) for w in train], pa.list_(pa.float32())),
        TIMESTAMPS: pa.array([list(range(len(w))) for w in train], pa.list_(pa.int64()))}))
    with storage.upload_folder(out.folder) as folder:
        write_arrow(folder / "train.arrow", pa.table({
            USER_IDX: np.arange(len(walks)), ITEMS: pa.array(train, pa.large_list(pa.int32()))}))
        for name, back in (("validation", 2), ("test", 1)):
            users = [u for u, n in enumerate(held_out) if n]
            write_arrow(folder / f"{name}.arrow", pa.table({
                USER_IDX: np.array(users, np.int64),
                HISTORY: pa.array([walks[u][:-back] for u in users], pa.large_list(pa.int32())),
                TARGET: np.array([walks[u][-back] for u in users], np.int32)}))
    if cold is not None:
        left = [0 if kind == REMOVED else int(counts[item - 1]) for item, kind in cold.items()]
        before = [n + (2 if kind == REMOVED or item % 2 == 0 else 0) for n, (item, kind) in zip(left, cold.items(),
                                                                                               strict=True)]
        out.write_table(COLD_FILE, pa.table({
            ITEM_IDX: pa.array(list(cold), pa.int32()), COLD: list(cold.values()), BEFORE: pa.array(before, pa.int32()),
            COUNT: pa.array(left, pa.int32())}))
    out.write_json("stats.json", {"users": len(walks), "items": items, "interactions": sum(map(len, walks))})
    return out.commit({"num_users": len(walks), "num_items": items}, id_digest=digest_ids(item_ids))


def make_targets(storage: Storage, prepared: Artifact, *, width: int = 8, angles: tuple[str, ...] = ("overall",),
                 coverage: float = 0.7, seed: int = 0) -> Artifact:
    """A `reduce` artifact: a vector that leans on the user's training items, for a random share of the users."""
    rng = np.random.default_rng(seed)
    key = StageKey("reduce", 1, {"width": width, "angles": list(angles), "coverage": coverage, "seed": seed},
                   {"encode": prepared.fingerprint})
    out = artifacts.begin(storage, key)
    histories = prepared.read_table("histories/part-00000.parquet").to_pylist()
    taste = rng.normal(size=(max(max(row[ITEMS]) for row in histories) + 1, width))
    rows: list[Row] = []
    for row in histories:
        for angle in sorted(angles):
            vector = taste[row[ITEMS]].mean(axis=0) + 0.1 * rng.normal(size=width)
            if rng.random() < coverage:
                rows.append((row[USER_IDX], angle, vector))
    made, names = vector_rows(rows)
    write_targets(out, made)
    total = len(histories) * len(angles)
    return out.commit({"num_in": total, "num_out": len(rows), "num_rejected": total - len(rows)},
                      info={"width": width, "angles": names})


def _interactions(walks: list[list[int]], held_out: list[int]) -> pa.Table:
    users, items, positions, splits = [], [], [], []
    for user, (walk, n) in enumerate(zip(walks, held_out, strict=True)):
        for position, item in enumerate(walk):
            users.append(user)
            items.append(item)
            positions.append(position)
            splits.append([TRAIN, VALIDATION, TEST][max(0, position - (len(walk) - n) + 1)] if n else TRAIN)
    return pa.table({
        USER_IDX: pa.array(users, pa.int64()), ITEM_IDX: pa.array(items, pa.int32()),
        TIMESTAMP: pa.array(positions, pa.int64()), SIGNAL: pa.array([5.0] * len(users), pa.float32()),
        POSITION: pa.array(positions, pa.int32()), SPLIT: pa.array(splits).dictionary_encode()})


def train_arm(storage: Storage, prepared: Artifact, targets: Artifact | None, config: TrainConfig,
              model: ModelConfig, arm: Arm = "distilled", seed: int = 0,
              on_epoch: Callable[[dict[str, Any]], None] | None = None) -> Artifact:
    """Find or train one arm as a run does: a broken attempt is given up and goes on at the next call."""
    from pipeline.train.stage import train

    stage_key = train_key(config, model, arm, seed, prepared.fingerprint, targets.fingerprint if targets else None)
    finished = artifacts.find(storage, stage_key)
    if finished is not None:
        return finished
    out = artifacts.begin(storage, stage_key, resume=True)
    try:
        return train(config, model, arm, seed, prepared, targets, out, on_epoch)
    except BaseException:
        out.release()
        raise


def export_untrained(folder: Path, model: SASRecConfig, items: pa.Table, fingerprint: str, seed: int = 0,
                     ann: bool = False) -> Path:
    """An exported folder of a model that was never trained, with an index of its items where asked for.

    Args:
        items: the columns of a catalogue (``pipeline.api.items.COLUMNS``).
    """
    from models.students import build_encoder
    from pipeline.api.nearest import NearestItems
    from pipeline.train.export import save_model

    folder.mkdir(parents=True, exist_ok=True)
    student = build_encoder(model, len(items), seed)
    if ann:
        items_VD = student.item_weights_VD().detach().numpy()
        NearestItems.build(items_VD, items_VD[:100])[0].save(folder)
    save_model(folder, student.state_dict(), model, items[ITEM_ID],
               {"fingerprint": fingerprint, **({"ann": {}} if ann else {})}, items)
    return folder


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a training's ``metrics.jsonl``."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]
