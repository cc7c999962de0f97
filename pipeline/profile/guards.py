"""Profiles may be built from the training part alone: checked on the prepared files themselves, before any text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import LeakageError
from pipeline.store.arrow import row_lengths
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import ITEM_IDX, ITEMS, SPLIT, TRAIN, USER_IDX


def check_training_part(prepared: Artifact) -> None:
    """Compare the histories, interaction by interaction, with the training rows of ``interactions.parquet``.

    Both are sorted by user and time, so equal digests mean equal users, items and order. Streams; a few seconds per
    ten million rows.

    Raises:
        LeakageError: a history holds anything but its user's training interactions.
    """
    allowed, allowed_rows = _digest(_training_rows(prepared))
    given, given_rows = _digest(_history_rows(prepared))
    if allowed != given:
        raise LeakageError(
            f"the histories' {given_rows} interactions are not the {allowed_rows} of the training part, and profiles "
            f"may see nothing else; delete {prepared.folder} and run prepare again")


def _digest(pairs: Iterator[tuple[np.ndarray, np.ndarray]]) -> tuple[str, int]:
    users, items, rows = hashlib.blake2b(), hashlib.blake2b(), 0
    for user, item in pairs:
        users.update(user.astype(np.int64).tobytes())
        items.update(item.astype(np.int32).tobytes())
        rows += len(user)
    return users.hexdigest() + items.hexdigest(), rows


def _training_rows(prepared: Artifact) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for batch in prepared.read_batches("interactions.parquet", [USER_IDX, ITEM_IDX, SPLIT]):
        split = batch[SPLIT]
        train = batch.filter(pc.equal(split.cast(pa.string()), TRAIN))
        yield train[USER_IDX].to_numpy(), train[ITEM_IDX].to_numpy()


def _history_rows(prepared: Artifact) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for batch in prepared.storage.read_folder(prepared.relative("histories"), [USER_IDX, ITEMS]):
        lengths = row_lengths(batch[ITEMS])
        yield np.repeat(batch[USER_IDX].to_numpy(), lengths), pc.list_flatten(batch[ITEMS]).to_numpy()
