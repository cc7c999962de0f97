"""`make bench-rank`: seconds of exact full ranking and of recommending, in several ways, alternating, one thread.

An untrained student ranks: speed does not depend on what it knows. `dense`: some users again by a dense product in
double precision and a full sort, for the figures of disagreement.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import models.ranking
from models.config import SASRecConfig
from models.ranking import rank_users, recommend
from models.scoring import EncoderScorer
from models.sequences import Cases, Sequences
from models.students import build_encoder
from tests.bench.dense import dense_lists, dense_ranks
from tests.bench.generated import draw
from tests.bench.ledger import Ledger
from tests.bench.pages import RESULTS, check_parts, note, table

SIZES = {"beauty": (22_363, 12_101, 8.9), "amazon-m2": (100_000, 334_060, 5.9)}
"""Users, items, mean length of a history."""
LIST, CUT = 10, 20
TILES = tuple((users, items) for users in (64, 128, 256, 512) for items in (504, 1016, 2040))
DENSE_USERS = 1000


def main() -> None:
    """Measure the parts that are named, or all, and write the page."""
    parts = [f"{kind}-{size}" for size in SIZES for kind in ("ways", "tiles")]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(parts)}; none: all but tiles")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the users")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--again", action="store_true", help="measure finished parts anew")
    given = parser.parse_args()
    check_parts(parser, given.parts, parts)
    ledger = Ledger("rank", given.results, given.again)
    torch.set_num_threads(1)
    for part in given.parts or [part for part in parts if part.startswith("ways")]:
        kind, _, size = part.partition("-")
        work = {"ways": ways, "tiles": tiles}[kind]
        ledger.run(part, partial(work, size, given.share, given.rounds))
        _write(ledger)


class General:
    """The same scores without saying that they are inner products: ranked by the way for any scorer."""

    def __init__(self, scorer: EncoderScorer) -> None:
        self.num_items, self.states, self.scores = scorer.num_items, scorer.states, scorer.scores


def task(size: str, share: float) -> tuple[EncoderScorer, Cases]:
    """An untrained student and cases of that size."""
    users, items, mean_length = SIZES[size]
    users = max(64, round(users * share))
    encoder = build_encoder(SASRecConfig(), items, seed=0).eval()
    return EncoderScorer(encoder), draw(users, items, mean_length)


def ways(size: str, share: float, rounds: int) -> dict[str, Any]:
    """Every way to rank, in turn."""
    scorer, cases = task(size, share)
    histories = cases.histories
    works: dict[str, Callable[[], object]] = {
        "states alone": lambda: scorer.states(histories, np.arange(len(cases))),
        "ranks": lambda: rank_users(scorer, cases, top_k=0),
        f"ranks and top {CUT}": lambda: rank_users(scorer, cases, top_k=CUT),
        f"top {LIST}, fp32": lambda: recommend(scorer, histories, LIST),
        f"top {LIST}, bf16": lambda: recommend(scorer, histories, LIST, precision="bf16"),
        "ranks, for any scorer": lambda: rank_users(General(scorer), cases, top_k=0),
    }
    return {"users": len(cases), "items": scorer.num_items, "cpu_s": _alternate(works, rounds),
            **_against_dense(scorer, cases)}


def tiles(size: str, share: float, rounds: int) -> dict[str, Any]:
    """Sizes of a tile, in turn, ranks and the top 10."""
    scorer, cases = task(size, share)
    shipped = models.ranking.TILE_USERS, models.ranking.TILE_ITEMS
    found = {}
    for label, work in (("ranks", lambda: rank_users(scorer, cases, top_k=0, batch_users=10**6, item_chunk=10**6)),
                        ("top 10", lambda: recommend(scorer, cases.histories, LIST))):
        found[label] = _alternate({f"{users} × {items}": partial(_with_tiles, users, items, work)
                                   for users, items in TILES}, rounds)
    return {"users": len(cases), "items": scorer.num_items, "shipped": list(shipped), "cpu_s": found}


def _with_tiles(users: int, items: int, work: Callable[[], object]) -> None:
    before = models.ranking.TILE_USERS, models.ranking.TILE_ITEMS
    models.ranking.TILE_USERS, models.ranking.TILE_ITEMS = users, items
    try:
        work()
    finally:
        models.ranking.TILE_USERS, models.ranking.TILE_ITEMS = before


def _alternate(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU-seconds of each; the rounds go through all of them."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            started = time.process_time()
            work()
            taken[name].append(time.process_time() - started)
            note(f"  {name}: {taken[name][-1]:.2f} CPU-s")
    return {name: round(statistics.median(each), 3) for name, each in taken.items()}


def _against_dense(scorer: EncoderScorer, cases: Cases) -> dict[str, int]:
    """How many of some users differ from a full sort of scores in double precision."""
    count = min(DENSE_USERS, len(cases))
    edges = cases.histories.offsets[: count + 1]
    some = Cases(cases.users[:count], Sequences(cases.histories.values[: edges[-1]], edges), cases.targets[:count])
    found = rank_users(scorer, some, top_k=0)
    lists = {precision: recommend(scorer, some.histories, LIST, precision=precision).items_NK
             for precision in ("fp32", "bf16")}
    states_ND = scorer.states(some.histories, np.arange(count))
    unlike = {"ranks": 0, "fp32": 0, "bf16": 0}
    for indices in np.array_split(np.arange(count), -(-count // 64)):
        states_BD = states_ND[torch.from_numpy(indices)]
        unlike["ranks"] += int((dense_ranks(states_BD, scorer.items_VD, some, indices) != found.rank[indices]).sum())
        best_BK = dense_lists(states_BD, scorer.items_VD, some, indices, LIST)
        for precision, list_NK in lists.items():
            unlike[precision] += int((best_BK != list_NK[indices]).any(1).sum())
    return {"dense_users": count} | {f"unlike_dense_{name}": number for name, number in unlike.items()}


def _write(ledger: Ledger) -> None:
    found = ledger.figures("ways-")
    parts = ["## Ranking", "Full ranking over the whole catalogue by an untrained student (dim 64), CPU-seconds on one "
             "thread, median of alternating rounds, the users' states included. The last line is the way for scorers "
             "that are no inner product (baselines)."]
    if found:
        names = list(dict.fromkeys(name for each in found.values() for name in each["cpu_s"]))
        parts.append(table(("", *(f"{size}: {each['users']:,} users × {each['items']:,} items"
                                  for size, each in found.items())),
                           [(name, *(f"{each['cpu_s'][name]:.2f}" for each in found.values())) for name in names]))
        parts.append("Unlike a dense product in double precision, fully sorted: " + "; ".join(
            f"{size}, of {each['dense_users']:,} users: {each['unlike_dense_ranks']} ranks, "
            f"{each['unlike_dense_fp32']} lists by fp32, {each['unlike_dense_bf16']} lists by bf16"
            for size, each in found.items()) + ".")
    for size, each in ledger.figures("tiles-").items():
        parts.append(f"Sizes of a tile, {size} (users × items; shipped: {each['shipped'][0]} × {each['shipped'][1]}):")
        parts.append(table(("tile", *each["cpu_s"]), [
            (tile, *(f"{times[tile]:.2f}" for times in each["cpu_s"].values()))
            for tile in next(iter(each["cpu_s"].values()))]))
    ledger.show("\n\n".join(parts))


if __name__ == "__main__":
    main()
