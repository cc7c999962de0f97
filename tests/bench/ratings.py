"""Raw ratings in which a share of the users rates nothing, so that one of two profile angles has nothing to say."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_MATERIALS = ("oak", "pine", "steel", "wool", "glass", "clay", "silk", "cork")
_THINGS = ("table", "chair", "lamp", "rug", "vase", "bowl", "scarf", "tray", "shelf", "clock")


def write_ratings(folder: Path, users: int, items: int, rated_share: float, seed: int = 0) -> str:
    """Write ``interactions.csv`` and ``items.csv``; 5 to 9 interactions per user, one hour apart.

    Args:
        folder: created.
        users: ``u0`` …
        items: ``i0`` …; the next item is mostly a near one, so there is something to learn.
        rated_share: chance that a user rates, and then everything.
        seed: of all draws.

    Returns:
        The ``prepare.source`` that reads them.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows, time = ["user_id,item_id,timestamp,rating"], 1_500_000_000
    for user in range(users):
        rates = rng.random() < rated_share
        item = int(rng.integers(items))
        for _ in range(int(rng.integers(5, 10))):
            time += 3600
            rows.append(f"u{user},i{item},{time},{int(rng.integers(1, 6)) if rates else ''}")
            item = (item + int(rng.integers(1, 4))) % items if rng.random() < 0.8 else int(rng.integers(items))
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n")
    titles = [f"i{item},{_MATERIALS[item % 8]} {_THINGS[item // 8 % 10]} no {item}" for item in range(items)]
    (folder / "items.csv").write_text("\n".join(["item_id,title", *titles]) + "\n")
    return (f"{{kind: table, interactions: {folder / 'interactions.csv'}, items: {folder / 'items.csv'}, "
            "columns: {signal: rating}}")
