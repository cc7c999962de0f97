"""`make bench-m2`: the whole way at the size of Amazon-M2, on generated sessions: seconds and memory of every stage.

616,502 users, 334,060 items, about 3.65 million interactions, 100,000 test users. Every stage is the real command in a
process of its own, watched from here; finished stages are not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.storage import Storage
from configs.loader import load
from pipeline.config import RunConfig
from pipeline.encode import keys as encode_keys
from pipeline.encode.sources import locate
from pipeline.plan import keys, steps
from pipeline.prepare import keys as prepare_keys
from pipeline.prepare.config import SyntheticSource
from pipeline.profile import keys as profile_keys
from pipeline.store.artifacts import begin, find, open_artifact
from tests.bench.beauty import driver_settings
from tests.bench.latents import write_vectors
from tests.bench.ledger import Ledger
from tests.bench.pages import RESULTS, check_parts, table, verdict
from tests.bench.peers.driver import Driver, own_python
from tests.bench.watch import watched
from tests.bench.workshop import watching
from tests.small_encoder import make_encoder
from tests.tools import ROOT, command, epochs_logged

USERS, ITEMS, INTERACTIONS, TEST_USERS = 616_502, 334_060, 3_651_542, 100_000
EPOCH_TARGET_S, RANK_TARGET_S, MEMORY_TARGET_GB, DRIVER_TARGET_GB = 120.0, 60.0, 8.0, 1.5
FULL_SHARE = 0.02
UMAP_FIT_ROWS = 20_000
SHORT_TOKENS = 16
SETTINGS = {"batch": "128", "loss": '{"kind": "sampled_softmax", "negatives": 512}',
            "optimizer": '{"lr": 1e-3, "table": "rowwise"}',
            "reduce": '{"method": {"kind": "pca", "components": 64}, "fit_rows": 50000}'}
COUNTS = {"users": "users", "items": "items", "num_out": "interactions", "test_users": "test users"}
GB = 1e9
CONFIG = """
name: bench-m2
arms: [plain, distilled]
storage: {{uri: {storage}}}
cluster: {{num_cpus: 2, object_store_gb: 0.5}}
prepare:
  source: {{kind: synthetic, users: {users}, items: {items}, mean_length: {length}, tastes: 64, sessions: true}}
  split: {{kind: sessions, test_users: {test}, validation_users: 0.01}}
profile:
  engine: {{kind: keywords}}
  max_rejected_fraction: 1.0
reduce: {reduce}
model: {{kind: sasrec, hidden_dim: 64, num_blocks: 2, num_heads: 1, dropout: 0.2, max_length: 50}}
train:
  alpha: 0.2
  distillation: {{loss: {{kind: infonce, temperature: 0.1}}, layer: 1}}
  epochs: 2
  distill_epochs: 1
  batch_size: {batch}
  loss: {loss}
  optimizer: {optimizer}
  validation_users: 2000
  execution: {{num_workers: 2, cpus_per_worker: 0.9, threads_per_worker: 1}}
evaluate:
  baselines: []
  execution: {{workers: 2}}
"""


def main() -> None:
    """Run the stages that are named, or all, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"any of {', '.join(STAGES)}; none: all")
    parser.add_argument("--share", type=float, default=1.0, help="of the users and items, for a trial")
    for name, value in SETTINGS.items():
        parser.add_argument(f"--{name}", default=value, metavar="JSON")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "mentorec-bench-m2",
                        metavar="FOLDER", help="keeps the artifacts between calls")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--again", action="store_true", help="measure finished stages anew")
    given = parser.parse_args()
    check_parts(parser, given.stages, STAGES)
    bench = Bench(given.scratch, Sizes(round(USERS * given.share), round(ITEMS * given.share), TEST_USERS / USERS),
                  {name: getattr(given, name) for name in SETTINGS})
    ledger = Ledger("m2", given.results, given.again)
    for stage in given.stages or STAGES:
        ledger.run(stage, partial(STAGES[stage], bench))
        _write(ledger)


@dataclass(frozen=True)
class Sizes:
    """Of generated sessions as long as Amazon-M2's."""

    users: int
    items: int
    test_share: float
    """Of the users."""


class Bench:
    """The run's configuration and what its stages left."""

    def __init__(self, scratch: Path, sizes: Sizes, settings: Mapping[str, Any]) -> None:
        """
        Args:
            settings: what ``CONFIG`` leaves open: ``reduce``, ``loss``, ``optimizer``, ``batch``.
        """
        self.scratch = scratch.resolve()
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.file = self.scratch / "run.yaml"
        self.file.write_text(CONFIG.format(
            storage=self.scratch / "storage", users=sizes.users, items=sizes.items, length=INTERACTIONS / USERS,
            test=sizes.test_share, **settings))
        self.config = load(RunConfig, str(self.file), [])
        self.storage = Storage.from_config(self.config.storage)

    def stage(self, name: str, *overrides: str, label: str, progress: Callable[[], object] | None = None
              ) -> dict[str, Any]:
        """A command in a process of its own, watched: its seconds, its memory and that of all below it.

        What an earlier attempt at the artifact ``label`` left goes first, so that all of it is measured.
        """
        config = load(RunConfig, str(self.file), list(overrides))
        folders = {step.label: key.folder for step, key in keys(steps(config), self.storage)}
        self.storage.delete(folders[label])
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(command(name, *overrides, "-c", str(self.file)), cwd=ROOT,
                                       stdout=subprocess.DEVNULL, stderr=said, env=_environment())
            with watched(process.pid) as usage, _calling(progress):
                code = process.wait()
            if code:
                said.seek(0)
                raise RuntimeError(f"`mentorec {name} {' '.join(overrides)}` ended with {code}: {said.read()[-3000:]}")
        return {**usage.figures(), "processes": usage.by_name}

    def fingerprints(self) -> dict[str, str]:
        """Of the stages before `reduce`."""
        prepare = prepare_keys.key(self.config.prepare).fingerprint
        return {"prepare": prepare, "profile": profile_keys.key(self.config.profile, prepare).fingerprint}


def prepare(bench: Bench) -> dict[str, Any]:
    """Generate and prepare."""
    figures = bench.stage("prepare", label="prepare")
    artifact = open_artifact(bench.storage, "prepare", bench.fingerprints()["prepare"])
    assert artifact is not None
    return figures | {"counts": artifact.manifest.counts}


def profile(bench: Bench) -> dict[str, Any]:
    """Keywords profiles through Ray Data."""
    return bench.stage("profile", label="profile")


def encode(bench: Bench) -> dict[str, Any]:
    """By an encoder of one narrow layer, of texts' first tokens: what the stage itself takes, beside which any real
    encoder's time stands."""
    folder = bench.scratch / "encoder"
    if not folder.exists():
        make_encoder(folder, Path(locate(bench.config.encode, "").name_or_path))
    return bench.stage("encode", f"encode.model={folder}", f"encode.max_tokens={SHORT_TOKENS}", label="encode")


def vectors(bench: Bench) -> dict[str, Any]:
    """The generator's latents in the place of the encoder's vectors; no stage of ours, measured for the record."""
    found = bench.fingerprints()
    key = encode_keys.key(bench.config.encode, found["profile"])
    prepared = open_artifact(bench.storage, "prepare", found["prepare"])
    assert prepared is not None
    assert isinstance(bench.config.prepare.source, SyntheticSource)
    started = time.perf_counter()
    artifact = find(bench.storage, key) or write_vectors(bench.config.prepare.source, prepared,
                                                         begin(bench.storage, key))
    return {"seconds": time.perf_counter() - started, "counts": artifact.manifest.counts}


def reduce(bench: Bench) -> dict[str, Any]:
    """Fit on a sample, transform the rest."""
    return bench.stage("reduce", label="reduce")


def reduce_umap(bench: Bench) -> dict[str, Any]:
    """The same by UMAP; nothing is trained on it here."""
    return bench.stage("reduce", "reduce.method={kind: umap, components: 64}", f"reduce.fit_rows={UMAP_FIT_ROWS}",
                       label="reduce")


def train(arm: str, bench: Bench) -> dict[str, Any]:
    """Two epochs through Ray Train: of the distilled arm the first distils."""
    log = _EpochLog(Path(bench.storage.path("artifacts/train")))
    figures = bench.stage("train", f"arms=[{arm}]", label=f"train/{arm}/seed-0", progress=log.look)
    return figures | {"epoch_ends_s": log.ends(), "first_epoch_s": log.first_epoch()}


def evaluate(bench: Bench) -> dict[str, Any]:
    """Full ranking of the test users by the distilled model, two Ray workers."""
    figures = bench.stage("evaluate", "arms=[distilled]", label="evaluate/distilled/seed-0")
    references = bench.storage.read_json(f"runs/{bench.config.name}/references.json")
    artifact = open_artifact(bench.storage, "evaluate", references["evaluate/distilled/seed-0"])
    assert artifact is not None
    return figures | {"rank_s": artifact.manifest.info["seconds"], "counts": artifact.manifest.counts}


def full_softmax(bench: Bench) -> dict[str, Any]:
    """Part of an epoch with the full softmax on one thread, scaled to the epoch."""
    prepared = bench.fingerprints()["prepare"]
    artifact = open_artifact(bench.storage, "prepare", prepared)
    assert artifact is not None
    model, training = bench.config.model, bench.config.train
    scratch = bench.scratch / "full-softmax"
    scratch.mkdir(exist_ok=True)
    settings = driver_settings(artifact, scratch, task="slices", dim=model.hidden_dim, blocks=model.num_blocks,
                               heads=model.num_heads, dropout=model.dropout, max_length=model.max_length,
                               batch_size=training.batch_size, lr=training.optimizer.lr)
    with Driver("mentorec", own_python(), settings) as driver:
        epoch = driver.facts["steps_per_epoch"]
        driver.ask({"steps": 2})
        part = driver.ask({"steps": math.ceil(FULL_SHARE * epoch)})
    return {"steps_per_epoch": epoch, "part": part, "share": part["steps"] / epoch,
            "epoch_cpu_s": part["cpu_s"] * epoch / part["steps"],
            "epoch_wall_s": part["wall_s"] * epoch / part["steps"]}


STAGES: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "prepare": prepare, "profile": profile, "encode": encode, "vectors": vectors, "reduce": reduce,
    "reduce-umap": reduce_umap, "train-distilled": partial(train, "distilled"), "train-plain": partial(train, "plain"),
    "evaluate": evaluate, "full-softmax": full_softmax}


class _EpochLog:
    """When each epoch of a training was logged, by looking at its metrics again and again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started = time.perf_counter()
        self._there = set(folder.rglob("metrics.jsonl"))
        self._first_step: float | None = None
        self._ends: list[float] = []

    def look(self) -> None:
        for log in set(self._folder.rglob("metrics.jsonl")) - self._there:
            now = time.perf_counter()
            if self._first_step is None:
                self._first_step = now
            while len(self._ends) < epochs_logged(log):
                self._ends.append(now)

    def ends(self) -> list[float]:
        """Seconds after the command's start at which epochs had ended, their validation included."""
        return [round(end - self._started, 1) for end in self._ends]

    def first_epoch(self) -> float | None:
        """Seconds from the log's beginning to the first epoch's end."""
        return round(self._ends[0] - self._first_step, 1) if self._ends and self._first_step is not None else None


def _calling(look: Callable[[], object] | None) -> contextlib.AbstractContextManager[None]:
    """``look`` now and then while the block runs; files may vanish while it looks."""
    if look is None:
        return contextlib.nullcontext()

    def again() -> None:
        with contextlib.suppress(OSError):
            look()

    return watching(again, every_s=0.2)


def _environment() -> dict[str, str]:
    """A Ray of its own, of workers as nice as their driver."""
    return {**{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}, "RAY_worker_niceness": "0"}


def _write(ledger: Ledger) -> None:
    found = ledger.figures()
    rows = []
    for name, each in found.items():
        memory = [f"{each[key] / GB:.2f}" if each.get(key) else "" for key in
                  ("driver_bytes", "tree_bytes", "tree_unique_bytes")]
        counts = each.get("counts", {})
        own = {"prepare": ", ".join(f"{counts.get(key, 0):,} {what}" for key, what in COUNTS.items()),
               "encode": "by an encoder of one narrow layer, without a model's time",
               "evaluate": f"ranking {each.get('rank_s', 0):.1f} s",
               "full-softmax": f"an epoch on one thread: {each.get('epoch_wall_s', 0):.0f} s, from "
                               f"{100 * each.get('share', 0):.1f} % of it"}.get(name, "")
        if name.startswith("train"):
            own = f"epoch {each['first_epoch_s']} s (ends after {each['epoch_ends_s']})"
        rows.append((name, f"{each.get('seconds', 0):.1f}" if "seconds" in each else "", *memory, own))
    checks = [(what, target, found_, verdict(good)) for what, target, found_, good in _checks(found)]
    ledger.show("\n\n".join([
        "## The size of Amazon-M2",
        f"Generated sessions ({USERS:,} users, a catalogue of {ITEMS:,} items, mean length {INTERACTIONS / USERS:.2f}; "
        "signal built in: shows that the machinery works), 2 cores. Each stage is the real command in a process of its "
        "own. Memory in GB: the driver's resident peak; the sum of resident bytes of the driver and all below it, "
        "pages that they share counted in each; the same with shared pages divided among their owners (PSS).",
        table(("stage", "seconds", "driver", "sum RSS", "sum PSS", ""), rows),
        table(("", "target", "found", "met"), checks)]))


def _checks(found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str, bool | None]]:
    checks: list[tuple[str, str, str, bool | None]] = []
    for arm in ("distilled", "plain"):
        if seconds := found.get(f"train-{arm}", {}).get("first_epoch_s"):
            checks.append((f"sampled epoch, {arm}", f"< {EPOCH_TARGET_S:g} s", f"{seconds:.1f} s",
                           seconds < EPOCH_TARGET_S))
    if "evaluate" in found:
        seconds = found["evaluate"]["rank_s"]
        checks.append(("ranking of the test users", f"< {RANK_TARGET_S:g} s", f"{seconds:.1f} s",
                       seconds < RANK_TARGET_S))
    for name, key, target in (("all processes together", "tree_unique_bytes", MEMORY_TARGET_GB),
                              ("driver", "driver_bytes", DRIVER_TARGET_GB)):
        peaks = {stage: each[key] / GB for stage, each in found.items() if each.get(key)}
        if peaks:
            worst = max(peaks, key=lambda stage: peaks[stage])
            checks.append((f"peak memory, {name}", f"< {target:g} GB", f"{peaks[worst]:.2f} GB ({worst})",
                           peaks[worst] < target))
    return checks


if __name__ == "__main__":
    sys.exit(main())
