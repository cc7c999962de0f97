"""`make bench-train`: what each teacher costs, what a second worker brings, and what is served, on the Beauty data.

Training without a teacher and with each kind is asked for the same few steps in turn, each in a process of its own, as
this machine's speed changes from second to second; the teachers' vectors are noise, which costs the same as knowledge.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.config import ClusterConfig
from cluster.connect import connect
from pipeline.store import arrays
from pipeline.store.artifacts import Artifact, StageKey, begin, find
from pipeline.train.config import Arm, TrainConfig
from pipeline.train.export import load_model
from pipeline.train.keys import key
from pipeline.train.stage import train
from tests.bench.beauty import HYPERPARAMETERS, driver_settings, prepare_beauty, student
from tests.bench.latents import write_item_noise, write_noise
from tests.bench.ledger import Ledger
from tests.bench.pages import RESULTS, check_parts, table, verdict
from tests.bench.peers.driver import Driver, own_python

WORKERS_TARGET = 1.6
TARGET_WIDTH, TEXT_WIDTH = 64, 384
LOSS = {"kind": "infonce", "temperature": 0.1}
DISTIL = {"alpha": 0.2, "distillation": {"loss": LOSS, "layer": 1}}
MEMBERS = 3
ENSEMBLE = {"members": [{"arm": f"member-{n}"} for n in range(MEMBERS)], "start": 0}
TEACHERS: Mapping[str, tuple[Arm, Mapping[str, Any], float | None]] = {
    "plain": ("plain", {}, None),
    "profile": ("distilled", DISTIL, 1.05),
    "neighbours": ("distilled", {"alpha": 0.2, "distillation": {
        "loss": LOSS, "layer": 1, "target": {"kind": "neighbours"}}}, None),
    "profile-reading": ("plain", {"profile_input": {}}, None),
    "text-only": ("plain", {"item_table": {"kind": "mapped_text"}}, None),
    "ensemble of three": ("plain", {"ensemble": ENSEMBLE}, 2.0),
    **{f"ensemble of three and {kind}": ("plain", {"ensemble": {**ENSEMBLE, "baselines": [{"kind": kind}]}}, 2.0)
       for kind in ("content", "transitions", "item_knn")}}
"""Name → arm, settings over the plain ones, and what an epoch may cost of a plain one's seconds."""
BATCHES = {1: (120, 40), 256: (30, 6)}
"""Users served at once: rounds, and how often in a round. Each round loads the models anew: where a table lies in
memory alone changes a request by some percent."""
SAME_LATENCY = 0.05
"""By what share a latency may differ from the plain one's, its interval included, to count as the same."""
AGAIN = "plain again"
BATCH_SIZES = {HYPERPARAMETERS["batch_size"]: 1, 1024: 2, 4096: 4}
"""Users of a step of all workers (a small job, and ones of the size that workers are for), and how many times as many
epochs are trained, as they have fewer steps and the first ones are slower."""
DRAWS = 10_000
"""Of the bootstrap."""
SLICE = 25
"""Optimizer steps between two turns."""


def main() -> None:
    """Measure the parts that are named, or all, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; none: all")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each arm, in slices")
    parser.add_argument("--worker-epochs", type=int, default=4)
    parser.add_argument("--scratch", type=Path, metavar="FOLDER")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--again", action="store_true", help="measure finished parts anew")
    given = parser.parse_args()
    check_parts(parser, given.parts, PARTS)
    ledger = Ledger("train", given.results, given.again)
    with contextlib.ExitStack() as stack:
        scratch = given.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mentorec-train-")))
        bench = Bench(scratch.resolve(), given.rounds, given.worker_epochs)
        for part in given.parts or PARTS:
            ledger.run(part, partial(PARTS[part], bench))
            _write(ledger)


class Bench:
    """Prepared data and teacher targets in one storage."""

    def __init__(self, scratch: Path, rounds: int, worker_epochs: int) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.scratch, self.rounds, self.worker_epochs = scratch, rounds, worker_epochs
        self.prepared = prepare_beauty(scratch / "storage")
        self.storage = self.prepared.storage
        noise = StageKey("reduce", 1, {"noise": TARGET_WIDTH}, {"prepare": self.prepared.fingerprint})
        self.targets = find(self.storage, noise) or write_noise(self.prepared, TARGET_WIDTH,
                                                                begin(self.storage, noise))
        texts = StageKey("encode", 1, {"noise": TEXT_WIDTH}, {"prepare": self.prepared.fingerprint})
        self.texts = find(self.storage, texts) or write_item_noise(self.prepared, TEXT_WIDTH,
                                                                   begin(self.storage, texts))

    def overhead(self) -> dict[str, Any]:
        """CPU-seconds of the same slices of epochs, with each teacher in turn."""
        names = list(TEACHERS)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        with contextlib.ExitStack() as stack:
            drivers = {name: stack.enter_context(self._driver(name)) for name in names}
            for driver in drivers.values():
                driver.ask({"steps": SLICE})
            epoch = drivers["plain"].facts["steps_per_epoch"]
            for turn in range(math.ceil(self.rounds * epoch / SLICE)):
                for name in names if turn % 2 == 0 else reversed(names):
                    found[name].append(drivers[name].ask({"steps": SLICE}))
        cpu_TS = np.array([[each["cpu_s"] for each in found[name]] for name in names])
        slices = cpu_TS.shape[1]
        drawn_TK = cpu_TS[:, np.random.default_rng(0).integers(0, slices, (DRAWS, slices))].sum(2)
        epoch_T = cpu_TS.sum(1) * epoch / (SLICE * slices)
        return {"teachers": {name: {
            "epoch_s": epoch_T[t], "ratio": epoch_T[t] / epoch_T[0],
            "interval": np.percentile(drawn_TK[t] / drawn_TK[0], [2.5, 97.5]).tolist()}
            for t, name in enumerate(names)}, "slices": found}

    def workers(self) -> dict[str, Any]:
        """Seconds of an epoch of one Ray Train worker on one core and of two on two, in turn, the same global batch."""
        setups = [(batch, count) for batch in BATCH_SIZES for count in (1, 2)]
        found: dict[str, list[float]] = {}
        with connect(ClusterConfig(num_cpus=3)):
            for batch, count in (*setups, *reversed(setups)):
                epochs = self.worker_epochs * BATCH_SIZES[batch]
                trained = self._train("plain", epochs, count, batch_size=batch)
                found.setdefault(f"{batch}/{count}", []).append(trained.manifest.info["seconds"] / epochs)
        return {"epoch_s": {name: statistics.mean(each) for name, each in found.items()}, "runs": found}

    def served(self) -> dict[str, Any]:
        """The exported state dicts side by side, and the latency of a request: state, scores, the ten best."""
        folders = {name: self._train(name, 2, 0).local("model") for name in TEACHERS}
        shapes = {name: {key: list(value.shape) for key, value in load_model(folder).state_dict().items()}
                  for name, folder in folders.items()}
        folders[AGAIN] = folders["plain"]
        return {"same_state_dict": all(each == shapes["plain"] for each in shapes.values()),
                "parameters": len(shapes["plain"]), "models": list(shapes),
                "latency": {str(batch): self._latency(folders, batch, *often) for batch, often in BATCHES.items()}}

    def _latency(self, folders: Mapping[str, Path], batch: int, rounds: int, times: int) -> dict[str, dict[str, Any]]:
        """Of each model the median request of a round, in ms, and the median of its ratios to plain's over rounds."""
        histories = arrays.cases(self.prepared.local("test.arrow")).histories
        rng = np.random.default_rng(0)
        names = list(folders)
        median_ms_TR = np.empty((len(names), rounds))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with torch.inference_mode():
            for round_ in range(rounds):
                models = {names[place]: load_model(folders[names[place]]) for place in rng.permutation(len(names))}
                weights = {name: model.item_weights_VD().detach() for name, model in models.items()}
                taken: dict[str, list[float]] = {name: [] for name in names}
                for turn in range(2 + times):
                    users = rng.choice(len(histories), batch, replace=False)
                    for name in models if turn % 2 == 0 else reversed(list(models)):
                        started = time.perf_counter()
                        items_BL = torch.from_numpy(histories.padded(users, models[name].max_length))
                        (models[name].user_states_BD(items_BL) @ weights[name].T).topk(10)
                        if turn >= 2:
                            taken[name].append(1e3 * (time.perf_counter() - started))
                median_ms_TR[:, round_] = [statistics.median(taken[name]) for name in names]
        torch.set_num_threads(threads)
        ratios_TR = median_ms_TR / median_ms_TR[0]
        drawn_TK = np.median(ratios_TR[:, rng.integers(0, rounds, (DRAWS, rounds))], axis=2)
        return {name: {"median_ms": float(np.median(median_ms_TR[t])), "ratio": float(np.median(ratios_TR[t])),
                       "interval": np.percentile(drawn_TK[t], [2.5, 97.5]).tolist(),
                       "rounds_ms": median_ms_TR[t].tolist()} for t, name in enumerate(names)}

    def _driver(self, name: str) -> Driver:
        folder = self.scratch / name.replace(" ", "-")
        folder.mkdir(exist_ok=True)
        arm, settings, _ = TEACHERS[name]
        targets, texts, members = self._inputs(name)
        return Driver("mentorec", own_python(), driver_settings(
            self.prepared, folder, task="slices", arm=arm, train_settings=settings,
            targets=targets and targets.fingerprint, texts=texts and texts.fingerprint,
            members=[member.fingerprint for member in members]))

    def _inputs(self, name: str) -> tuple[Artifact | None, Artifact | None, list[Artifact]]:
        """What the teacher of this name reads: profiles' vectors, items' vectors, trained members."""
        arm, settings, _ = TEACHERS[name]
        return (self.targets if arm != "plain" or "profile_input" in settings else None,
                self.texts if TrainConfig.model_validate(settings).reads_texts else None,
                self.members() if "ensemble" in settings else [])

    @cache  # noqa: B019 - one bench per process
    def members(self) -> list[Artifact]:
        """Recommenders of two epochs: an ensemble's cost does not depend on what its members know."""
        return [self._train("plain", 2, 0, seed=1 + member) for member in range(MEMBERS)]

    def _train(self, name: str, epochs: int, workers: int, seed: int = 0,
               batch_size: int = HYPERPARAMETERS["batch_size"]) -> Artifact:
        given, model, (arm, settings, _) = HYPERPARAMETERS, student(HYPERPARAMETERS), TEACHERS[name]
        targets, texts, members = self._inputs(name)
        config = TrainConfig.model_validate({
            "epochs": epochs, "distill_epochs": epochs - 1 if arm != "plain" else 0,
            "batch_size": batch_size, "optimizer": {"lr": given["lr"]}, "validation_users": 256,
            "validate_every_epochs": epochs, **settings, "execution": {
                "num_workers": workers, "threads_per_worker": 1, "checkpoint_every_epochs": epochs}})
        stage_key = key(config, model, arm, seed, self.prepared.fingerprint, targets and targets.fingerprint,
                        texts_fp=texts and texts.fingerprint, members=[member.fingerprint for member in members])
        self.storage.delete(stage_key.folder)
        return train(config, model, arm, seed, self.prepared, targets, begin(self.storage, stage_key),
                     item_texts=texts, members=members)


PARTS = {"overhead": Bench.overhead, "workers": Bench.workers, "served": Bench.served}


def _latencies(batch: str, found: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, str, str]]:
    users = f"{batch} user{'s' if batch != '1' else ''}"
    for name in [name for name in found if name != "plain"]:
        (low, high), rounds = found[name]["interval"], len(found[name]["rounds_ms"])
        yield (f"latency of {users}, {name} : plain (state, scores, ten best; one thread, in turn, {rounds} rounds, "
               "95 % interval over them)", f"1 ± {SAME_LATENCY}, whole interval",
               f"{found[name]['ratio']:.3f} [{low:.3f}, {high:.3f}] ({found[name]['median_ms']:.2f} : "
               f"{found['plain']['median_ms']:.2f} ms)",
               verdict(low >= 1 - SAME_LATENCY and high <= 1 + SAME_LATENCY))


def _write(ledger: Ledger) -> None:
    found = ledger.figures()
    rows: list[tuple[str, str, str, str]] = []
    if overhead := found.get("overhead"):
        plain = overhead["teachers"]["plain"]
        for name, each in overhead["teachers"].items():
            if name != "plain":
                low, high = each["interval"]
                target = TEACHERS[name][2]
                rows.append((f"epoch, {name} : no teacher (CPU-seconds, one thread, {len(overhead['slices'][name])} "
                             f"slices of {SLICE} steps in turn, 95 % interval over them)",
                             f"≤ {target}" if target else "", f"{each['ratio']:.3f} [{low:.3f}, {high:.3f}] "
                             f"({each['epoch_s']:.1f} s : {plain['epoch_s']:.1f} s)",
                             verdict(each["ratio"] <= target if target else None)))
    if workers := found.get("workers"):
        for batch in BATCH_SIZES:
            one_s, two_s = (workers["epoch_s"][f"{batch}/{count}"] for count in (1, 2))
            rows.append((f"throughput of 2 DDP workers on 2 cores : 1 on 1 (Ray Train, global batch of {batch} users)",
                         f"≥ {WORKERS_TARGET}", f"{one_s / two_s:.2f} ({one_s:.1f} s → {two_s:.1f} s per epoch)",
                         verdict(one_s / two_s >= WORKERS_TARGET)))
    if served := found.get("served"):
        rows.append((f"exported state dict ({', '.join(served['models'])}): keys and shapes", "identical",
                     f"{served['parameters']} parameters, {'identical' if served['same_state_dict'] else 'different'}",
                     verdict(served["same_state_dict"])))
        rows += [row for batch, each in served["latency"].items() for row in _latencies(batch, each)]
    settings = ", ".join(f"{name} {value}" for name, value in HYPERPARAMETERS.items())
    ledger.show("\n\n".join([
        "## Teachers, workers, serving", f"Real Beauty data, SASRec, full softmax, {settings}.",
        table(("", "target", "found", "met"), rows)]))


if __name__ == "__main__":
    main()
