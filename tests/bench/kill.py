"""Part `kill`: SIGKILL to the driver in the middle of training and of profiling, then the same command again."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from pipeline.store.columns import ANGLE, USER_IDX
from pipeline.store.rows import DONE, RAW
from tests.bench.ratings import write_ratings
from tests.bench.sections import Section
from tests.bench.workshop import Killed, Workshop, done, kill_when, watching
from tests.tools import TINY, epochs_logged

EPOCHS = ("train.epochs=60", "train.distill_epochs=30", "train.execution.threads_per_worker=1")
KILLS_HERE = (8, 45)
"""Epochs of the distilled arm after which the driver is killed: one in each phase."""
KILL_ON_RAY = 20
ON_RAY = ("arms=[distilled]", "train.execution.num_workers=1", "train.execution.cpus_per_worker=0.5")
ANEW = "starts anew"
USERS, BLOCK_ROWS, KILL_BLOCKS = 3000, 50, 15
ANGLES = ("overall", "favourites")
PROFILE = ("profile.angles=[overall, favourites]", "profile.max_rejected_fraction=0.5",
           f"profile.execution={{actors: 1, num_cpus: 0.5, block_rows: {BLOCK_ROWS}, batch_rows: {BLOCK_ROWS}}}")


def run(workshop: Workshop) -> Section:
    """Kill and rerun; compare with what was never disturbed."""
    section = Section("SIGKILL to the driver, then the same command (point 6)",
                      "The signal goes to the driver alone, whenever the files of its attempt show that it is in the "
                      "middle; the rerun is the very same command. Training: 60 epochs of the small run, killed in "
                      "this process's own training twice (once per phase) and on Ray Train (one worker) once, against "
                      f"one uninterrupted run. Profiles: {USERS:,} users with two angles each, blocks of "
                      f"{BLOCK_ROWS} users.")
    killed = [*_training(section, workshop), _profile(section, workshop)]
    left = sum(each.left for each in killed)
    section.check(f"{len(killed)} kills: processes of the killed drivers that were still there two minutes later", "0",
                  f"{left} of {sum(each.helpers for each in killed)}", left == 0)
    return section


def _training(section: Section, workshop: Workshop) -> list[Killed]:
    undisturbed = str(workshop.tiny("uninterrupted"))
    done("run", "-c", undisturbed, *EPOCHS)
    here, on_ray = (str(workshop.tiny(name)) for name in ("killed", "killed-on-ray"))
    rows: list[tuple[object, ...]] = []
    killed = []
    for config, kills, more in ((here, KILLS_HERE, ()), (on_ray, (KILL_ON_RAY,), ON_RAY)):
        storage = workshop.folder / Path(config).stem
        where = "on Ray Train" if more else "in the driver's process"
        for epoch in kills:
            killed.append(kill_when(partial(_reached, storage, epoch), "run", "-c", config, *EPOCHS, *more))
            rows.append((where, _distilled_epochs(storage), _saved_epochs(storage)))
        saved, seen = _saved_epochs(storage), [_distilled_epochs(storage)]
        with watching(partial(_note_epochs, storage, seen)):
            again = done("run", "-c", config, *EPOCHS, *more)
        section.check(f"training {where}: the rerun goes on from the newest saved checkpoint", f"epoch {saved}",
                      f"epoch {min(seen)}; {_goes_on(again)}", min(seen) == saved > 0 and _goes_on(again) != ANEW)
    section.table("When the driver was killed", ("training", "epochs done", "newest saved checkpoint: epoch"), rows)
    expected = _test_metrics(workshop.folder / "uninterrupted")
    twice, ray = (_test_metrics(workshop.folder / name) for name in ("killed", "killed-on-ray"))
    section.check("test metrics after two kills, both arms", "equal to the uninterrupted run's",
                  _told(twice), twice == expected)
    section.check("test metrics after a kill on Ray Train, distilled arm", "equal to the uninterrupted run's",
                  _told(ray), ray == {"distilled": expected["distilled"]})
    section.check("test ranks of every user after the kills", "equal",
                  "equal" if _same_ranks(workshop.folder) else "different", _same_ranks(workshop.folder))
    runs = {"uninterrupted": expected, "killed twice": twice, "killed on Ray Train": ray}
    section.table("Test metrics, seen items removed", ("run", "arm", *expected["plain"]),
                  [(name, arm, *(f"{value:.6f}" for value in values.values()))
                   for name, found in runs.items() for arm, values in found.items()])
    return killed


def _goes_on(process: subprocess.CompletedProcess[str]) -> str:
    """What the rerun says of an unfinished attempt."""
    said = (line.partition(": ")[2] for line in process.stderr.splitlines() if "going on with the unfinished" in line)
    return next(said, ANEW)


def _distilled_attempts(storage: Path) -> Iterator[Path]:
    for key in storage.glob("artifacts/train/*/key.json"):
        if json.loads(key.read_text())["config"]["arm"] == "distilled":
            yield from key.parent.glob("attempts/*")


def _distilled_epochs(storage: Path) -> int:
    return max((epochs_logged(attempt / "metrics.jsonl") for attempt in _distilled_attempts(storage)), default=0)


def _reached(storage: Path, epoch: int) -> bool:
    return _distilled_epochs(storage) >= epoch


def _note_epochs(storage: Path, seen: list[int]) -> None:
    seen.append(_distilled_epochs(storage))


def _saved_epochs(storage: Path) -> int:
    """Of the newest checkpoint that a rerun will find: Ray Train counts those in its snapshot only."""
    epochs = [0]
    for attempt in _distilled_attempts(storage):
        snapshots = "".join(path.read_text() for path in attempt.glob("ray/*/checkpoint_manager_snapshot.json"))
        for state in attempt.glob("**/state.json"):
            if state.parent.name.startswith("checkpoint-") or state.parent.name in snapshots:
                epochs.append(json.loads(state.read_text())["epochs"])
    return max(epochs)


def _test_metrics(storage: Path) -> dict[str, dict[str, float]]:
    """Arm → metric → mean, as the run's own ``metrics.json`` has them."""
    arms = json.loads((storage / "runs" / "tiny" / "metrics.json").read_text())["arms"]
    return {arm: {metric: found["mean"] for metric, found in values["seen_removed"].items()}
            for arm, values in arms.items()}


def _told(metrics: dict[str, dict[str, float]]) -> str:
    return "; ".join(f"{arm}: ndcg@10 {values['ndcg@10']:.6f}, recall@10 {values['recall@10']:.6f}"
                     for arm, values in metrics.items())


def _same_ranks(folder: Path) -> bool:
    """Ranks of both arms in all three storages."""
    found: dict[str, dict[str, pa.Table]] = {}
    for name in ("uninterrupted", "killed", "killed-on-ray"):
        root = folder / name
        references = json.loads((root / "runs" / "tiny" / "references.json").read_text())
        found[name] = {label: pq.read_table(next(root.glob(f"artifacts/evaluate/{key}/attempts/*/ranks.parquet")))
                       for label, key in references.items() if label.startswith("evaluate/") and "seed" in label}
    expected = found["uninterrupted"]
    distilled = {label: table for label, table in expected.items() if "distilled" in label}
    return len(expected) == 2 and found["killed"] == expected and found["killed-on-ray"] == distilled


def _profile(section: Section, workshop: Workshop) -> Killed:
    raw = workshop.folder / "ratings"
    source = write_ratings(raw, users=USERS, items=200, rated_share=0.7)
    args = ("profile", "-c", str(workshop.config("killed-profile", TINY)), f"prepare.source={source}", *PROFILE)
    storage = workshop.folder / "killed-profile"
    done("prepare", *args[1:])
    killed = kill_when(lambda: len(_saved_blocks(storage)) >= KILL_BLOCKS, *args)
    saved, written = _ids(_saved_blocks(storage)), _ids(_row_files(storage))
    before, aside = {path.name for path in _row_files(storage)}, workshop.folder / "aside"
    aside.mkdir()
    with watching(partial(_keep_aside, storage, aside, before)):
        again = done(*args)
    redone = _ids(sorted(aside.iterdir()))
    new = np.setdiff1d(redone, saved)

    attempt = next(storage.glob("artifacts/profile/*/attempts/*"))
    counts = json.loads(next(storage.glob("artifacts/profile/*/manifest.json")).read_text())["counts"]
    profiles, rejected = (pq.read_table(attempt / name, columns=[USER_IDX, ANGLE])
                          for name in ("profiles", "rejected.parquet"))
    everyone = pa.concat_tables([profiles, rejected])
    distinct = everyone.group_by([USER_IDX, ANGLE]).aggregate([]).num_rows
    section.check("the rerun of `profile` goes on", "with the unfinished attempt", _goes_on(again),
                  _goes_on(again) != ANEW)
    section.check("rows in = rows out + rejected", f"{USERS * len(ANGLES):,}",
                  f"{counts['num_in']:,} = {counts['num_out']:,} + {counts['num_rejected']:,} (files: "
                  f"{profiles.num_rows:,} + {rejected.num_rows:,})",
                  counts["num_in"] == USERS * len(ANGLES) == profiles.num_rows + rejected.num_rows
                  and counts["num_out"] == profiles.num_rows and counts["num_rejected"] > 0)
    section.check("every user and angle exactly once", f"{USERS:,} users × {len(ANGLES)}",
                  f"{pc.count_distinct(everyone[USER_IDX]).as_py():,} users, {distinct:,} distinct of "
                  f"{everyone.num_rows:,} rows",
                  distinct == everyone.num_rows and pc.count_distinct(everyone[USER_IDX]).as_py() == USERS)
    section.check("saved users that the rerun computed again", "0", len(redone) - len(new), len(redone) == len(new))
    section.check("users saved before the kill and computed by the rerun", f"together {USERS:,}",
                  f"{len(saved):,} + {len(new):,}", len(saved) > 0 and len(saved) + len(new) == USERS)
    section.table("Users", ("total", "saved before the kill", "written, but not yet marked as saved", "computed by the "
                            "rerun", "blocks saved", "blocks in all"),
                  [(USERS, len(saved), len(np.setdiff1d(written, saved)), len(redone),
                    math.ceil(len(saved) / BLOCK_ROWS), math.ceil(USERS / BLOCK_ROWS))])
    return killed


def _saved_blocks(storage: Path) -> list[Path]:
    """Ray Data's marks of written blocks: one file of ids each."""
    return [path for path in storage.glob(f"artifacts/profile/*/attempts/*/{DONE}/*.parquet")
            if not path.name.endswith(".pending.parquet")]


def _row_files(storage: Path) -> list[Path]:
    return list(storage.glob(f"artifacts/profile/*/attempts/*/{RAW}/*.parquet"))


def _ids(files: list[Path]) -> np.ndarray:
    if not files:
        return np.zeros(0, np.int64)
    table = pads.dataset([str(path) for path in files], format="parquet").to_table([USER_IDX])
    return np.unique(table[USER_IDX].to_numpy())


def _keep_aside(storage: Path, folder: Path, before: set[str]) -> None:
    """Hard links to new files of rows: the stage deletes its work at its end."""
    with suppress(FileNotFoundError):  # deleted since it was listed
        for path in _row_files(storage):
            if path.name not in before and not (folder / path.name).exists():
                os.link(path, folder / path.name)
