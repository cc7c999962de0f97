"""Part `disks`: every stage on a full or read-only disk, and the same command afterwards; races for one artifact."""

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
from tests.scripted_llm import long_answer, scripted_server
from tests.small_disk import CAUSE, FULL, NO_FILES, PARTS, READ_ONLY, Obstacle, Trial, asking, can_mount, meet
from tests.tiny_llm import make_tokenizer
from tests.tools import ON_RAY, TINY

STAGES = ("prepare", "profile", "encode", "reduce", "train", "evaluate", "report")
USERS, BATCH = 40, 4
"""Of the run whose profiles are asked for."""
RACES, RACERS = 20, 2
_KEY = StageKey("demo", 1, {})
_DEAD = {"host": leases.mine()["host"], "pid": 2**22 + 1, "created": 0.0, "token": "dead"}


def run(workshop: Workshop) -> Section:
    """Both, as checks and tables."""
    section = Section("Full disks, read-only disks and races", "A tmpfs that holds everything before a stage, and then "
                      "next to nothing more, no further file, or nothing at all (read-only); then it is mended and the "
                      "same command runs again. `ledger` is a profile stage that asks a scripted server. Races: "
                      "processes that want one artifact, over the lease of a dead process.")
    if can_mount():
        _disks(section, workshop)
    else:
        section.check("a disk of our own", "may be mounted", "this user may not mount", False)
    outcomes_of_races = [_race(workshop.folder / f"race-{number}") for number in range(RACES)]
    right = sum(sorted(kinds) == ["built"] + ["found"] * (RACERS - 1) for kinds in outcomes_of_races)
    section.check(f"{RACES} races of {RACERS} processes for one artifact", "one builds, the other waits and finds it",
                  f"{right} of {RACES}", right == RACES)
    return section


def _disks(section: Section, workshop: Workshop) -> None:
    with scripted_server(long_answer) as server:
        trials = _trials(workshop, server.url)
        for trial, found in zip(trials, meet(trials, workshop.folder / "disk"), strict=True):
            for met, said in zip(trial.obstacles, found.refusals, strict=True):
                told = said.refused(f"{workshop.folder}/disk/results", "cannot ", CAUSE[met.kind])
                section.check(f"{trial.name} on {met}", "exit 2, one line that tells path and cause",
                              f"exit {said.code}: {' '.join(said.stderr.splitlines()[-1:])}", told)
            section.check(f"{trial.name} again, with nothing in its way", "exit 0",
                          " ".join([f"exit {found.again.code}", *found.again.errors]), found.again.code == 0)
        answers, lost = USERS, 2 * BATCH
        section.check(f"answers that the ledger was given for {answers} users",
                      f"at most {lost} asked again: the two batches that could not be saved",
                      f"{len(server.asked) - answers}", 0 <= len(server.asked) - answers <= lost)


def _trials(workshop: Workshop, url: str) -> list[Trial]:
    """Every stage, the ledger, and two stages through Ray; all on one disk."""
    place = f"storage: {{uri: {workshop.folder / 'disk' / 'results'}}}\n"
    config, asked = workshop.folder / "tiny.yaml", workshop.folder / "asked.yaml"
    config.write_text(TINY + place)
    run = TINY.replace("users: 120", f"users: {USERS}")
    asked.write_text(asking(run, url, make_tokenizer(workshop.folder / "tokenizer"), BATCH) + place)
    here, ledger = ("-c", str(config)), ("-c", str(asked))
    return [*(Trial(stage, (stage, *here), (FULL, NO_FILES, READ_ONLY)) for stage in STAGES),
            Trial("prepare for the ledger", ("prepare", *ledger)),
            Trial("ledger", ("profile", *ledger), (Obstacle("full", 150), PARTS, READ_ONLY)),
            Trial("profile on Ray", ("profile", *here, *ON_RAY, "profile.form=long"), (Obstacle("full", 24),)),
            Trial("train on Ray", ("train", *here, "arms=[plain]", "train.epochs=5",
                                   "train.execution={num_workers: 1, max_failures: 0}"), (FULL,))]


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
