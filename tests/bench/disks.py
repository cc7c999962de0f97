"""Part `disks`: every stage on a disk that is full, and the same command once there is room; races for one artifact."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

from cluster.config import StorageConfig
from cluster.storage import Storage
from pipeline.store import leases
from pipeline.store.artifacts import Artifact, StageKey, find_or_begin
from tests.bench.sections import Section
from tests.bench.workshop import Workshop
from tests.small_disk import STAGES, can_mount, fill_and_go_on

RACES, RACERS = 20, 2
_KEY = StageKey("demo", 1, {})
_DEAD = {"host": leases.mine()["host"], "pid": 2**22 + 1, "created": 0.0, "token": "dead"}


def run(workshop: Workshop) -> Section:
    """Both, as checks and tables."""
    section = Section("Full disks and races", "A tmpfs that holds everything before a stage and 40 KiB more; then it "
                      "is given room and the same command runs again. Races: processes that want one artifact, over "
                      "the lease of a dead process.")
    if can_mount():
        outcomes = fill_and_go_on(STAGES, workshop.folder / "disk")
        for found in outcomes:
            told = found.code == 2 and found.lines_of_error == 1 and not found.traceback and "full" in found.line
            section.check(f"{found.stage} on a full disk", "exit 2, one line that tells path and cause",
                          f"exit {found.code}: {found.line}", told)
            section.check(f"{found.stage} again, with room", "exit 0", f"exit {found.again}", found.again == 0)
    else:
        section.check("a disk of our own", "may be mounted", "this user may not mount", False)
    outcomes_of_races = [_race(workshop.folder / f"race-{number}") for number in range(RACES)]
    right = sum(sorted(kinds) == ["built"] + ["found"] * (RACERS - 1) for kinds in outcomes_of_races)
    section.check(f"{RACES} races of {RACERS} processes for one artifact", "one builds, the other waits and finds it",
                  f"{right} of {RACES}", right == RACES)
    return section


def _race(root: Path) -> list[str]:
    storage = Storage.from_config(StorageConfig(uri=str(root)))
    storage.write_json(f"{_KEY.folder}/lease.json", _DEAD)
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(RACERS), context.Queue()
    racers = [context.Process(target=_enter, args=(storage, start, results)) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    kinds = [results.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join()
    return kinds


def _enter(storage: Storage, start: Any, results: Any) -> None:
    start.wait()
    found = find_or_begin(storage, _KEY, False, lambda _: None)
    if not isinstance(found, Artifact):
        found.commit({"num_out": 0})
    results.put("found" if isinstance(found, Artifact) else "built")
