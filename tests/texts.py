"""A `prepare` artifact whose items have text, made directly to the file contract: what the text stages need of it."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa

from cluster.storage import Storage
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact, StageKey
from pipeline.store.columns import (
    CATEGORY,
    COUNT,
    FIELDS,
    ITEM_ID,
    ITEM_IDX,
    ITEMS,
    POSITION,
    SIGNAL,
    SIGNALS,
    SPLIT,
    TITLE,
    TRAIN,
    USER_IDX,
)

WORDS = ("lavender", "citrus", "cedar", "rose", "vanilla", "mint", "amber", "musk")
KINDS = ("soap", "candle", "perfume", "shampoo")
_FIELDS = pa.map_(pa.string(), pa.string())


def make_text_prepared(storage: Storage, users: int = 120, items: int = 60, textless: int = 6, signals: bool = True,
                       seed: int = 0, leak: bool = False, longest: int = 9, more: Collection[int] = ()) -> Artifact:
    """Users with 2 to 9 random items. The last ``textless`` items have no text; users 9, 19, … have only those.

    Args:
        leak: the histories hold one interaction that is not in the training part.
        longest: most items of a user.
        more: users with one more interaction; all else is the same.
    """
    rng = np.random.default_rng(seed)
    key = StageKey("prepare", 1, {"users": users, "items": items, "textless": textless, "signals": signals,
                                  "seed": seed, "leak": leak, "longest": longest, "more": sorted(more)})
    out = artifacts.begin(storage, key)
    histories, liked = [], []
    for user in range(users):
        low, high = (items - textless, items) if textless and user % 10 == 9 else (0, items - textless)
        histories.append((rng.integers(low, high, rng.integers(2, longest + 1)) + 1).tolist())
        liked.append(rng.integers(1, 6, len(histories[-1])).astype(float).tolist() if signals
                     else [None] * len(histories[-1]))
    for user in more:
        histories[user].append(1 + user % (items - textless))
        liked[user].append(4.0 if signals else None)
    texts: list[tuple[str | None, str | None]] = []
    for item in range(items):
        first, second, kind = WORDS[item % 8], WORDS[(item // 3) % 8], KINDS[item % 4]
        texts.append((f"{first} {second} {kind} number {item}", kind) if item < items - textless else (None, None))
    prices = [[("price", f"{n % 7 + 1}.50")] if title else [] for n, (title, _) in enumerate(texts)]
    out.write_table("items.parquet", pa.table({
        ITEM_IDX: np.arange(1, items + 1, dtype=np.int32), ITEM_ID: [f"i{n}" for n in range(items)],
        TITLE: pa.array([title for title, _ in texts], pa.string()),
        CATEGORY: pa.array([kind for _, kind in texts], pa.string()),
        FIELDS: pa.array(prices, _FIELDS), COUNT: np.zeros(items, np.int32)}))
    flat = [item for history in histories for item in history]
    lengths = [len(history) for history in histories]
    out.write_table("interactions.parquet", pa.table({
        USER_IDX: np.repeat(np.arange(users), lengths), ITEM_IDX: pa.array(flat, pa.int32()),
        SIGNAL: pa.array([signal for row in liked for signal in row], pa.float32()),
        POSITION: np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
        SPLIT: pa.array([TRAIN] * len(flat)).dictionary_encode()}))
    if leak:
        histories[3], liked[3] = [*histories[3], 1], [*liked[3], liked[3][0]]
    for part, start in enumerate(range(0, users, 50)):
        out.write_table(f"histories/part-{part:05d}.parquet", pa.table({
            USER_IDX: np.arange(start, min(users, start + 50)),
            ITEMS: pa.array(histories[start:start + 50], pa.list_(pa.int32())),
            SIGNALS: pa.array(liked[start:start + 50], pa.list_(pa.float32()))}))
    return out.commit({"num_users": users, "num_items": items})
