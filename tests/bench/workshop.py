"""The scratch folder of an acceptance run: storages, configurations, commands, and drivers that are killed."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.pages import note, without_folders
from tests.tools import ROOT, TINY, cli, command

TIMEOUT_S = 900
DEAD_CLUSTER = {"RAY_ADDRESS": "127.0.0.1:1"}
"""Nobody listens there: whatever starts or joins Ray ends with an error."""
_POLL_S = 0.02
_FATE_S = 120.0
"""Ray's own agents notice after a good minute that their node is gone."""


@dataclass(frozen=True)
class Planned:
    """A line of the resource plan that ``--dry-run`` prints."""

    status: str
    fingerprint: str


@dataclass(frozen=True)
class Workshop:
    """Everything below one folder."""

    folder: Path

    def config(self, name: str, text: str = TINY) -> Path:
        """A configuration file with the storage ``<folder>/<name>``."""
        path = self.folder / f"{name}.yaml"
        path.write_text(f"{text}storage: {{uri: {self.folder / name}}}\n")
        return path

    def tiny(self, name: str) -> Path:
        """The configuration of a run of seconds, with a storage that holds everything before `train` already."""
        base = self.folder / "base"
        if not (base / "artifacts" / "reduce").exists():
            note("making the artifacts before train, once")
            done("reduce", "-c", str(self.config("base")))
        self.copy("base", name)
        return self.config(name)

    def copy(self, source: str, target: str) -> Path:
        """A storage's copy, without what a run says of itself."""
        shutil.copytree(self.folder / source, self.folder / target, ignore=shutil.ignore_patterns("lock.json"))
        return self.folder / target


def done(*args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command that must succeed.

    Raises:
        RuntimeError: it did not; the message holds the end of what it said.
    """
    started = time.perf_counter()
    process = cli(*args, timeout_s=TIMEOUT_S, env=env)
    note(f"  {without_folders(' '.join(args))}: {time.perf_counter() - started:.1f} s")
    if process.returncode:
        raise RuntimeError(f"`mentorec {' '.join(args)}` ended with {process.returncode}: {process.stderr[-2000:]}")
    return process


def dry_run(*args: str) -> dict[str, Planned]:
    """Step → what would be done with it and under which fingerprint, as ``--dry-run`` prints it."""
    lines = iter(done(*args, "--dry-run").stdout.splitlines())
    next(line for line in lines if line.split()[:3] == ["step", "would", "key"])
    next(lines)
    rows = (line.split() for line in lines)
    return {row[0]: Planned(row[1], row[2]) for row in rows if len(row) > 3 and row[1] in ("reuse", "build")}


def built(process: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Step → the changed keys it named, for every step that a run said it builds."""
    said = (line.partition(": building ") for line in process.stderr.splitlines())
    return {label: rest.partition("changed: ")[2] for label, found, rest in said if found}


@dataclass(frozen=True)
class Killed:
    """What became of a killed driver's own processes."""

    helpers: int
    left: int
    """Still there two minutes later; ended then."""


def kill_when(ready: Callable[[], bool], *args: str) -> Killed:
    """Start a command, send SIGKILL to it, and to it alone, as soon as ``ready``, and see its processes go.

    Raises:
        RuntimeError: the command ended, or time ran out, before it was ready.
    """
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        driver = subprocess.Popen(command(*args), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=said)
        try:
            while not ready():
                if driver.poll() is not None or time.perf_counter() - started > TIMEOUT_S:
                    said.seek(0)
                    raise RuntimeError(f"`mentorec {' '.join(args)}` could not be killed in time: "
                                       f"{said.read()[-2000:]}")
                time.sleep(_POLL_S)
            helpers = psutil.Process(driver.pid).children(recursive=True)
        finally:
            driver.kill()
            driver.wait()
    note(f"  {without_folders(' '.join(args))}: killed after {time.perf_counter() - started:.1f} s")
    left = []
    for process in psutil.wait_procs(helpers, timeout=_FATE_S)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:  # ended; where nobody is there to collect it, it stays listed
                left.append(process)
            process.kill()
    return Killed(len(helpers), len(left))


@contextlib.contextmanager
def watching(look: Callable[[], object], every_s: float = _POLL_S) -> Iterator[None]:
    """Call ``look`` again and again, in a thread of its own, while the block runs."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every_s):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
