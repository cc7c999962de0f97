"""A real small disk: a tmpfs in a mount namespace of its own, on which commands are refused and then go on.

The child process ``python -m tests.small_disk`` has the mount to itself; trials come to it, and what the commands said
goes back, as JSON.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from tests.tools import ROOT, asking_run, cli, cli_here

_LARGE = "size=512m,nr_inodes=100k"
_TRIES = 20
_TIMEOUT_S = 900
_UNSHARE = ("unshare", "-m") if os.getuid() == 0 else ("unshare", "-rm")


@dataclass(frozen=True)
class Obstacle:
    """What a command meets on the disk."""

    kind: Literal["full", "no files", "read-only"]
    room_kib: int = 40
    """Of a full disk: left when the command begins, so that its lease fits and its files do not."""
    folder: str = ""
    """The only one that is read-only, below the disk (a pattern with one match); else the whole disk is."""

    def __str__(self) -> str:
        if self.kind == "full":
            return f"a full disk ({self.room_kib} KiB)"
        return "a disk with no room for another file" if self.kind == "no files" else (
            f"a read-only {self.folder}" if self.folder else "a read-only disk")


FULL, NO_FILES, READ_ONLY = Obstacle("full"), Obstacle("no files"), Obstacle("read-only")
PARTS = Obstacle("read-only", folder="results/ledger/*/parts")
"""Where the answers of a language model are kept."""
CAUSE = {"full": "the disk is full (0.0 of ", "no files": " inodes free); make room there",
         "read-only": "the file system is read-only; set storage.uri to a place that can be written"}
"""Kind of obstacle → what the error says of it."""


@dataclass(frozen=True)
class Trial:
    """A command, and what it meets before it may go on."""

    name: str
    args: tuple[str, ...]
    obstacles: tuple[Obstacle, ...] = ()


@dataclass(frozen=True)
class Said:
    """What a command ended with."""

    code: int
    stderr: str

    @property
    def errors(self) -> list[str]:
        """Lines that tell an error."""
        return [line for line in self.stderr.splitlines() if line.startswith("error:")]

    @property
    def traceback(self) -> bool:
        return "Traceback" in self.stderr

    def refused(self, *words: str) -> bool:
        """Exit code 2, and one line, the last, that tells an error with each of the words."""
        return (self.code == 2 and not self.traceback and self.errors == self.stderr.splitlines()[-1:]
                and all(word in self.errors[0] for word in words))


@dataclass(frozen=True)
class Outcome:
    """What became of a trial."""

    name: str
    refusals: tuple[Said, ...]
    """One per obstacle."""
    again: Said
    """The same command once nothing is in its way."""


def asking(run: str, url: str, tokenizer: Path, batch: int) -> str:
    """The same run under another name, with profiles that a server writes; ``batch`` answers are saved at a time."""
    return asking_run(run.replace("name: tiny", "name: asked"), url, tokenizer,
                      f"actors: 0, batch_size: {batch}, concurrent_batches: 1", "sampling: {max_tokens: 250}",
                      "gate: {language: false}")


def can_mount() -> bool:
    """Whether this process may make a mount namespace and mount a tmpfs in it."""
    try:
        return subprocess.run([*_UNSHARE, "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"], capture_output=True,
                              check=False).returncode == 0
    except FileNotFoundError:
        return False


def meet(trials: Sequence[Trial], disk: Path, here: bool = False) -> list[Outcome]:
    """Every trial in turn on one new disk that is mounted at ``disk``.

    Args:
        here: all commands run in the child process, which imports what is heavy once; else each in its own.
    """
    order = json.dumps({"disk": str(disk), "here": here, "trials": [asdict(t) for t in trials]})
    child = subprocess.run([*_UNSHARE, sys.executable, "-m", "tests.small_disk"], cwd=ROOT, input=order,
                           env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    if child.returncode:
        raise RuntimeError(child.stderr[-3000:])
    return [Outcome(found["name"], tuple(Said(**said) for said in found["refusals"]), Said(**found["again"]))
            for found in json.loads(child.stdout.splitlines()[-1])]


def _inside(disk: Path, here: bool, trials: list[Trial]) -> list[Outcome]:
    disk.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", _LARGE, "tmpfs", str(disk))
    call = cli_here if here else partial(cli, timeout_s=_TIMEOUT_S)
    outcomes = []
    for trial in trials:
        refusals = []
        for obstacle in trial.obstacles:
            with _met(obstacle, disk):
                refusals.append(_said(call(*trial.args)))
        outcomes.append(Outcome(trial.name, tuple(refusals), _said(call(*trial.args))))
    return outcomes


@contextmanager
def _met(obstacle: Obstacle, disk: Path) -> Iterator[None]:
    used = os.statvfs(disk)
    if obstacle.kind == "full":
        size = (used.f_blocks - used.f_bfree) * used.f_frsize + obstacle.room_kib * 1024
        _mount("-o", f"remount,size={max(size, used.f_frsize)}", str(disk))  # 0 would be no limit
        mended = ("-o", f"remount,{_LARGE}", str(disk))
    elif obstacle.kind == "no files":
        _mount("-o", f"remount,nr_inodes={used.f_files - used.f_ffree + 2}", str(disk))
        mended = ("-o", f"remount,{_LARGE}", str(disk))
    elif not obstacle.folder:
        _mount("-o", "remount,ro", str(disk))
        mended = ("-o", "remount,rw", str(disk))
    else:
        [folder] = map(str, disk.glob(obstacle.folder))
        _mount("--bind", folder, folder)
        _mount("-o", "remount,bind,ro", folder)
        mended = ("-o", "remount,bind,rw", folder)
    try:
        yield
    finally:
        _mount(*mended)


def _said(process: subprocess.CompletedProcess[str]) -> Said:
    return Said(process.returncode, process.stderr)


def _mount(*args: str) -> None:
    """A disk is busy for as long as a command before, in this process, holds a deleted file of it open."""
    for left in reversed(range(_TRIES)):
        gc.collect()
        if subprocess.run(["mount", *args], check=not left).returncode == 0:
            return
        time.sleep(0.5)


def _main() -> None:
    order = json.load(sys.stdin)
    trials = [Trial(trial["name"], tuple(trial["args"]), tuple(Obstacle(**o) for o in trial["obstacles"]))
              for trial in order["trials"]]
    outcomes = _inside(Path(order["disk"]), order["here"], trials)
    print(json.dumps([asdict(outcome) for outcome in outcomes]))


if __name__ == "__main__":
    _main()
