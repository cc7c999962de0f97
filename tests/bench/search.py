"""Part `search`: eight trials on ml-latest-small; the driver is killed midway, the same command ends the search."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from configs.loader import load
from pipeline.config import RunConfig
from tests.bench.sections import Section
from tests.bench.workshop import Workshop, done, kill_when

CONFIG, TRIALS, KILL_AFTER = "configs/tune/alpha_beta.yaml", 8, 2
COLUMNS = ("trial", "metric", "epochs", "train.alpha", "train.beta")


def run(workshop: Workshop) -> Section:
    """Kill the search after some of its trials, run it again, and compare what was there with what is."""
    section = Section("A search, killed midway (point 9)",
                      f"`mentorec tune --config {CONFIG}` on the real ml-latest-small (`run=…`), {TRIALS} trials, "
                      f"NDCG@10 on 107 validation users; SIGKILL to the driver once {KILL_AFTER} trials trained to "
                      "their last epoch, then the very same command. A trial that comes so far is a finished `train` "
                      "artifact: its manifest's time shows when.")
    storage = workshop.folder / "search"
    args = ("tune", "-c", CONFIG, "run=../ml-latest-small/sasrec.yaml", f"overrides=[storage.uri={storage}]")
    killed = kill_when(lambda: len(_finished(storage)) >= KILL_AFTER, *args)
    before = _finished(storage)
    done(*args)
    after = _finished(storage)
    with (storage / "tune" / "alpha-beta" / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    section.check("trials trained to their end before the kill", f"{KILL_AFTER} or more, not all",
                  len(before), KILL_AFTER <= len(before) < TRIALS)
    section.check("of them trained again", "0", sum(after.get(key) != time for key, time in before.items()),
                  before.items() <= after.items())
    section.check("trials on the leaderboard, all finished", str(TRIALS),
                  sum(row["status"] == "finished" for row in rows),
                  len(rows) == TRIALS == len({row["trial"] for row in rows})
                  and all(row["status"] == "finished" for row in rows))
    best = load(RunConfig, storage / "tune" / "alpha-beta" / "best.yaml")
    section.check("`best.yaml` is the first of the leaderboard", rows[0]["train.alpha"], best.train.alpha,
                  best.train.alpha == float(rows[0]["train.alpha"]))
    section.check("processes of the killed driver that were still there two minutes later", "0",
                  f"{killed.left} of {killed.helpers}", killed.left == 0)
    section.table("Leaderboard (validation)", (*COLUMNS, "finished before the kill"),
                  [(*(row[name] for name in COLUMNS), "yes" if row["fingerprint"] in before else "no") for row in rows])
    return section


def _finished(storage: Path) -> dict[str, int]:
    """Fingerprint of every finished training → when its manifest was written."""
    found = {}
    for manifest in storage.glob("artifacts/train/*/manifest.json"):
        key = json.loads((manifest.parent / "key.json").read_text())
        if key["config"]["arm"] == "distilled":
            found[manifest.parent.name] = manifest.stat().st_mtime_ns
    return found
