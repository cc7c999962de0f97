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
    return _source(folder)


def write_grown(raw: Path, folder: Path, share: float, seed: int = 0) -> tuple[str, int]:
    """The files of ``write_ratings`` with later interactions of old users at their end, one for each.

    Args:
        raw: as written.
        folder: created.
        share: of the interactions, that many more.
        seed: of the draw.

    Returns:
        The ``prepare.source`` that reads them, and how many users have one more.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    header, *rows = (raw / "interactions.csv").read_text().splitlines()
    last = {row.split(",")[0]: row.split(",")[1:] for row in rows}
    end = max(int(time) for _, time, _ in last.values())
    users = rng.choice(sorted(last), round(share * len(rows)), replace=False).tolist()
    added = [f"{user},i{(int(last[user][0][1:]) + 1)},{end + 3600 * (place + 1)},{last[user][2]}"
             for place, user in enumerate(users)]
    (folder / "interactions.csv").write_text("\n".join([header, *rows, *added]) + "\n")
    (folder / "items.csv").write_text((raw / "items.csv").read_text())
    return _source(folder), len(users)


def _source(folder: Path) -> str:
    return (f"{{kind: table, interactions: {folder / 'interactions.csv'}, items: {folder / 'items.csv'}, "
            "columns: {signal: rating}}")
