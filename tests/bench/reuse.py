"""Part `reuse`: what the same command does again, and what one changed setting or byte makes it build."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

from tests.bench.sections import Section
from tests.bench.workshop import DEAD_CLUSTER, Planned, Workshop, built, done, dry_run
from tests.tools import cli, write_table

AGAIN_RUNS = 3
AGAIN_TARGET_S = 5.0
BEFORE_TRAIN = {"prepare", "profile", "encode", "reduce"}
EXECUTION = ("prepare.execution.history_rows=10", "profile.execution.actors=3", "profile.execution.block_rows=7",
             "encode.execution.batch_rows=7", "encode.execution.num_gpus=0.5", "train.execution.num_workers=2",
             "train.execution.threads_per_worker=3", "evaluate.execution.workers=2", "evaluate.execution.item_chunk=17",
             "cluster.num_cpus=4", "cluster.object_store_gb=1")
STEPS = ("step", "was", "changed keys it named")


def run(workshop: Workshop) -> Section:
    """Finish a run, then call it again in every way that point 5 names."""
    section = Section("The same command again, and one thing changed (point 5)",
                      "A small run (generated catalogue, 120 users, plain and distilled) is finished once. "
                      "\"No Ray\" is shown by setting RAY_ADDRESS to a port where nobody listens: a command that "
                      "starts or joins Ray ends with an error there, as the control shows.")
    config = str(workshop.tiny("reuse"))
    done("run", "-c", config)
    _again(section, config)
    finished = dry_run("run", "-c", config)
    _alpha(section, config, finished)
    _profile_form(section, config, finished)
    _execution(section, config, finished)
    _one_byte(section, workshop)
    return section


def _again(section: Section, config: str) -> None:
    times, silent = [], True
    for _ in range(AGAIN_RUNS):
        started = time.perf_counter()
        process = done("run", "-c", config, env=DEAD_CLUSTER)
        times.append(time.perf_counter() - started)
        silent &= not built(process) and process.stdout.startswith("nothing to do: ")
    section.check(f"the same command again, best of {AGAIN_RUNS}", f"< {AGAIN_TARGET_S:g} s",
                  f"{min(times):.2f} s (median {statistics.median(times):.2f} s)", min(times) < AGAIN_TARGET_S)
    section.check("it builds nothing, says so, and starts no Ray", "\"nothing to do\", exit code 0",
                  process.stdout.splitlines()[0], silent)


def _alpha(section: Section, config: str, finished: Mapping[str, Planned]) -> None:
    process = done("run", "-c", config, "train.alpha=0.7", env=DEAD_CLUSTER)
    steps = built(process)
    expected = {"train/distilled/seed-0", "evaluate/distilled/seed-0"}
    section.check("train.alpha=0.7: reuses everything before train, needs no Ray",
                  f"builds {_names(expected)}", f"builds {_names(steps)}", set(steps) == expected)
    section.check("train.alpha=0.7: the changed key is named", "config.train.alpha: 0.4 → 0.7",
                  steps.get("train/distilled/seed-0"),
                  "config.train.alpha: 0.4 → 0.7" in steps.get("train/distilled/seed-0", ""))
    section.table("train.alpha=0.7", STEPS, _rows(finished, steps))
    back = built(done("run", "-c", config, env=DEAD_CLUSTER))
    section.check("back to the first settings: everything is still there", "builds nothing", f"builds {_names(back)}",
                  not back)


def _profile_form(section: Section, config: str, finished: Mapping[str, Planned]) -> None:
    control = cli("run", "-c", config, "profile.form=long", env=DEAD_CLUSTER)
    said = control.stderr.strip().splitlines()[-1]
    section.check("control: a command that needs Ray, at the port where nobody listens", "exit code 2",
                  f"{control.returncode}, {said}", control.returncode == 2 and "no Ray cluster answers" in said)
    steps = built(done("run", "-c", config, "profile.form=long"))
    expected = {label for label in finished if label in BEFORE_TRAIN - {"prepare"} or "/distilled/" in label}
    section.check("profile.form=long: builds from profile on", f"builds {_names(expected)}", f"builds {_names(steps)}",
                  set(steps) == expected)
    section.check("profile.form=long: the changed key is named", "config.form: 'short' → 'long'", steps.get("profile"),
                  steps.get("profile") == "config.form: 'short' → 'long'")
    section.table("profile.form=long", STEPS, _rows(finished, steps))


def _execution(section: Section, config: str, finished: Mapping[str, Planned]) -> None:
    after = dry_run("run", "-c", config, *EXECUTION)
    changed = _changed(finished, after)
    section.check(f"{len(EXECUTION)} execution settings changed at once: changed fingerprints", f"0 of {len(finished)}",
                  f"{len(changed)} of {len(finished)}", not changed and after.keys() == finished.keys())
    section.table("Execution settings changed at once", ("setting",), [(setting,) for setting in EXECUTION])


def _one_byte(section: Section, workshop: Workshop) -> None:
    folder = workshop.folder / "raw"
    args = ("run", "-c", str(workshop.config("one-byte")), f"prepare.source={write_table(folder)}")
    before = dry_run(*args)
    _change_byte(folder / "items.csv")
    after = dry_run(*args)
    changed = _changed(before, after)
    section.check("one byte of raw data changed, size and modification time as before: changed fingerprints",
                  f"{len(before)} of {len(before)}", f"{len(changed)} of {len(before)}", len(changed) == len(before))


def _change_byte(path: Path) -> None:
    """One letter of one title."""
    state = path.stat()
    data = bytearray(path.read_bytes())
    data[data.index(b"oak table")] = ord("O")
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def _changed(before: Mapping[str, Planned], after: Mapping[str, Planned]) -> list[str]:
    return [label for label in before if label not in after or before[label].fingerprint != after[label].fingerprint]


def _names(labels: Mapping[str, str] | set[str]) -> str:
    return ", ".join(sorted(labels)) or "nothing"


def _rows(finished: Mapping[str, Planned], steps: Mapping[str, str]) -> list[tuple[str, str, str]]:
    return [(label, "built" if label in steps else "reused", steps.get(label, "")) for label in finished]
