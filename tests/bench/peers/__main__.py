"""`make bench-peers`: the same training and the same ranking by ours, RecTools, RePlay and RecBole, in alternation.

Every library runs in an environment of its own, in a process that is asked for some optimizer steps, or for a ranking,
in turn. Parts (``slices-1``, ``rank-2``, ``fit-rectools``, …) can be named; finished ones are not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models import metrics
from pipeline.store import arrays
from tests.bench.beauty import HYPERPARAMETERS, driver_settings, prepare_beauty
from tests.bench.ledger import Ledger
from tests.bench.pages import RESULTS, check_parts
from tests.bench.peers import report
from tests.bench.peers.driver import Driver, own_python
from tests.bench.peers.environments import ENVIRONMENTS, FOLDER, python_of
from tests.bench.peers.reach import epochs_to_reach
from tests.bench.peers.worker import ray_worker

OURS = {
    "mentorec": {"loss": {"kind": "softmax"}},
    "mentorec-bf16": {"loss": {"kind": "softmax"}, "precision": "bf16"},
    "mentorec-sampled": {"loss": {"kind": "sampled_softmax"}},
    "mentorec-22-users": {"loss": {"kind": "softmax"}, "batch_size": 22},
}
"""Variants of ours: what differs from the first, which is the one that is compared. 22 users have about the 128 targets
that RecBole calls a batch of 128."""
EPOCHS, TOP, WARM_STEPS = 3, 10, 4
ROUNDS, SLICE_STEPS, SLICES = 2, 20, 10
"""A slice is so many steps, or that part of an epoch where it is more; ours is so fast that a slice is an epoch
(in a trial with fewer steps it is none)."""


def main() -> None:
    """Measure what is named, or everything, and write the page."""
    names = [*OURS, *ENVIRONMENTS]
    parts = [*(f"{kind}-{threads}" for threads in (1, 2) for kind in ("slices", "rank")), "worker",
             *(f"fit-{name}" for name in names), "reach"]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(parts)}; none: all")
    parser.add_argument("--environments", type=Path, default=FOLDER, metavar="FOLDER")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--scratch", type=Path, metavar="FOLDER")
    parser.add_argument("--only", nargs="*", default=names, metavar="LIBRARY", help=f"of {', '.join(names)}")
    parser.add_argument("--slice-steps", type=int, default=SLICE_STEPS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--again", action="store_true", help="measure finished parts anew")
    given = parser.parse_args()
    check_parts(parser, given.parts, parts)
    ledger = Ledger("peers", given.results, given.again)
    with contextlib.ExitStack() as stack:
        scratch = given.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mentorec-peers-")))
        bench = Bench(scratch, given.environments, [name for name in names if name in given.only], given.slice_steps,
                      given.epochs)
        for part in given.parts or parts:
            kind, _, which = part.partition("-")
            if kind == "fit" and which not in bench.names:
                continue
            work = {"slices": partial(bench.slices, which), "rank": partial(bench.rank, which),
                    "fit": partial(bench.fit, which), "worker": bench.worker,
                    "reach": partial(bench.reach, ledger.figures("fit-"))}[kind]
            ledger.run(part, work)
            report.write(ledger, HYPERPARAMETERS)


class Bench:
    """The prepared data, the environments and what is measured in them."""

    def __init__(self, scratch: Path, environments: Path, names: list[str], slice_steps: int, epochs: int) -> None:
        self.names = names
        self._scratch, self._environments = scratch, environments
        self._slice_steps, self._epochs = slice_steps, epochs
        scratch.mkdir(parents=True, exist_ok=True)
        self._prepared = prepare_beauty(scratch / "storage")
        cases = arrays.cases(self._prepared.local("validation.arrow"))
        self._cases = cases
        train = [cases.histories[index].tolist() for index in range(len(cases))]
        _write_lines(scratch / "train.txt", train)
        _write_lines(scratch / "validation.txt", ([int(target)] for target in cases.targets))

    def slices(self, threads: str) -> dict[str, Any]:
        """Seconds of optimizer steps, library after library, round after round."""
        found: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:
            drivers = [stack.enter_context(self._driver(name, "slices", int(threads))) for name in self.names]
            for driver in drivers:
                driver.ask({"steps": WARM_STEPS})
            for _ in range(ROUNDS):
                for driver in drivers:
                    epoch = driver.facts["steps_per_epoch"]
                    long = epoch * self._slice_steps // (SLICE_STEPS * SLICES)
                    steps = max(self._slice_steps, long)
                    if driver.name in OURS and self._slice_steps >= SLICE_STEPS:
                        steps = epoch
                    found.setdefault(driver.name, []).append(driver.ask({"steps": steps}))
        return {driver.name: _epoch(driver.facts, found[driver.name]) for driver in drivers}

    def rank(self, threads: str) -> dict[str, Any]:
        """Seconds of recommending to everyone, library after library, round after round."""
        found: dict[str, list[dict[str, Any]]] = {}
        names = [name for name in self.names if name == "mentorec" or name not in OURS]
        with contextlib.ExitStack() as stack:
            drivers = [stack.enter_context(self._driver(name, "rank", int(threads))) for name in names]
            for _ in range(ROUNDS + 1):  # the first warms up
                for driver in drivers:
                    found.setdefault(driver.name, []).append(driver.ask(self._ranking(driver.name)))
        return {name: {"cpu_s": statistics.median(run["cpu_s"] for run in runs[1:]),
                       "wall_s": statistics.median(run["wall_s"] for run in runs[1:]),
                       "peak_bytes": max(run["peak_bytes"] for run in runs), "rounds": runs}
                for name, runs in found.items()}

    def fit(self, name: str) -> dict[str, Any]:
        """Train some epochs on one thread, then recommend: validation metrics from the lists."""
        with self._driver(name, "fit", 1) as driver:
            request = self._ranking(name)
            ranking = driver.ask(request)
            checks = driver.ask({"checks": True}) if name in OURS else {}
        lists = np.load(request["to"])
        return {"epochs": self._epochs, "fit": driver.facts["fit"], "versions": driver.facts["versions"],
                "rank": ranking, **self._quality(lists), **checks}

    def reach(self, fits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """How many epochs ours needs for the best peer's validation NDCG@10 after its epochs: libraries make an epoch
        of very different numbers of optimizer steps."""
        peers = {name: each for name, each in fits.items() if name not in OURS}
        if not peers:
            raise SystemExit("error: nothing to reach; measure fit-rectools, fit-replay and fit-recbole first")
        best = max(peers, key=lambda name: float(peers[name]["ndcg@10"]))
        return {"peer": best, "peer_cpu_s": peers[best]["fit"]["cpu_s"], "goal": peers[best]["ndcg@10"],
                **epochs_to_reach(self._prepared, {**HYPERPARAMETERS, **OURS["mentorec"]}, peers[best]["ndcg@10"])}

    def worker(self) -> dict[str, Any]:
        """One Ray Train worker: epoch seconds and its process's peak memory."""
        return ray_worker(self._prepared, {**HYPERPARAMETERS, **OURS["mentorec"]})

    def _driver(self, name: str, task: str, threads: int) -> Driver:
        folder = self._scratch / name
        folder.mkdir(exist_ok=True)
        python = own_python() if name in OURS else python_of(name, self._environments)
        return Driver(name, python, driver_settings(
            self._prepared, folder, task=task, threads=threads, epochs=self._epochs,
            train=str(self._scratch / "train.txt"), validation=str(self._scratch / "validation.txt"),
            **OURS.get(name, {})))

    def _ranking(self, name: str) -> dict[str, Any]:
        return {"rank": TOP, "to": str(self._scratch / name / "top.npy")}

    def _quality(self, lists: np.ndarray) -> dict[str, float | int]:
        hits = lists == self._cases.targets[:, None]
        rank = np.where(hits.any(1), hits.argmax(1) + 1, TOP + 1)
        histories = self._cases.histories
        seen = sum(int(np.isin(row, history).any()) for row, history in zip(lists, histories, strict=True))
        return {**metrics.mean(metrics.per_user(rank, (TOP,))), "users": len(rank), "lists_with_seen_items": seen}


def _epoch(facts: Mapping[str, Any], slices: list[dict[str, Any]]) -> dict[str, Any]:
    """Slices scaled to the epoch."""
    steps = sum(each["steps"] for each in slices)
    scale = facts["steps_per_epoch"] / steps
    return {"epoch_cpu_s": scale * sum(each["cpu_s"] for each in slices),
            "epoch_wall_s": scale * sum(each["wall_s"] for each in slices),
            "peak_bytes": max(each["peak_bytes"] for each in slices), "imports_bytes": facts["imports_bytes"],
            "steps_per_epoch": facts["steps_per_epoch"], "versions": facts["versions"], "slices": slices}


def _write_lines(path: Path, rows: Iterable[list[int]]) -> None:
    path.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
