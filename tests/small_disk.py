"""A real small disk: a tmpfs in a mount namespace of its own, filled to the brim and given room again."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.tools import ROOT, TINY

STAGES = ("prepare", "profile", "encode", "reduce", "train", "evaluate", "report")
_LARGE = "size=512m"
_SLACK_BYTES = 40 * 1024
"""Room that is left when a stage begins: its lease fits, its files do not."""


@dataclass(frozen=True)
class Outcome:
    """What a stage did on a full disk, and what the same command did once there was room."""

    stage: str
    size_kib: int
    code: int
    line: str
    """The last line on stderr."""
    traceback: bool
    lines_of_error: int
    again: int
    """Exit code of the same command with room."""


def can_mount() -> bool:
    """Whether this process may make a mount namespace and mount a tmpfs in it."""
    return subprocess.run(["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"], capture_output=True,
                          check=False).returncode == 0


def fill_and_go_on(stages: tuple[str, ...], folder: Path) -> list[Outcome]:
    """Each stage on a disk that holds all before it and next to nothing more, then with room.

    ``folder`` is the mount point. Everything runs in one child process that has the mount to itself.
    """
    script = subprocess.run(
        ["unshare", "-m", sys.executable, "-m", "tests.small_disk", str(folder), *stages], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    if script.returncode:
        raise RuntimeError(script.stderr[-2000:])
    return [Outcome(*_decoded(line)) for line in script.stdout.splitlines()]


def _decoded(line: str) -> list[object]:
    stage, size, code, traceback, count, again, text = line.split("\t")
    return [stage, int(size), int(code), text, traceback == "True", int(count), int(again)]


def _inside(folder: Path, stages: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", _LARGE, "tmpfs", str(folder)], check=True)
    config = folder.parent / f"{folder.name}.yaml"
    config.write_text(TINY + f"storage: {{uri: {folder / 'results'}}}\n")
    before = STAGES[: STAGES.index(stages[0])]
    if before:
        _mentorec(before[-1], config, check=True)
    for stage in stages:
        used = _used(folder)
        size = used + _SLACK_BYTES
        subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
        full = _mentorec(stage, config)
        subprocess.run(["mount", "-o", f"remount,{_LARGE}", str(folder)], check=True)
        errors = [line for line in full.stderr.splitlines() if line.startswith("error:")]
        text = (errors or full.stderr.splitlines() or [""])[-1].replace("\t", " ")
        again = _mentorec(stage, config)
        if again.returncode:
            print(again.stderr[-3000:], file=sys.stderr)
        print(stage, size // 1024, full.returncode, "Traceback" in full.stderr, len(errors), again.returncode, text,
              sep="\t", flush=True)


def _used(folder: Path) -> int:
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def _mentorec(stage: str, config: Path, check: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pipeline", stage, "--config", str(config)], cwd=ROOT,
                          capture_output=True, text=True, check=check)


if __name__ == "__main__":
    _inside(Path(sys.argv[1]), sys.argv[2:])
