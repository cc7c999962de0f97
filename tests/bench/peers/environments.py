"""The environment of each peer library: its own folder, its own pins, made once by pip from the package registry."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.pages import note
from tests.tools import ROOT

FOLDER = ROOT / "results" / "peers"
TORCH = "torch==2.13.0"
TIMEOUT_S = 3600


@dataclass(frozen=True)
class Environment:
    """What is installed, in this order: each step is one ``pip install``."""

    name: str
    package: str
    """The distribution that is measured, with its version."""
    steps: tuple[tuple[str, ...], ...]


ENVIRONMENTS = {each.name: each for each in (
    # psutil: the driver on the other side reads its own memory.
    Environment("rectools", "rectools==0.19.0",
                ((TORCH,), ("rectools[torch]==0.19.0", "pytorch-lightning<=2.5.2", "numpy<2", "psutil"))),
    Environment("replay", "replay-rec==0.22.0", ((TORCH,), ("replay-rec[torch]==0.22.0", "psutil"))),
    # Imports only with these: removed aliases of newer numpy, scipy and setuptools are still used.
    Environment("recbole", "recbole==1.2.1",
                ((TORCH,), ("recbole==1.2.1", "setuptools<81", "numpy<2", "pandas<3", "scipy<1.15", "psutil"))),
)}


def python_of(name: str, folder: Path) -> Path:
    """The interpreter of a peer's environment, which is made if it is absent or unfinished.

    Raises:
        RuntimeError: pip failed; the message holds the end of what it said.
    """
    return made(ENVIRONMENTS[name], folder)


def made(environment: Environment, folder: Path) -> Path:
    """The same for an environment that is no peer's."""
    name, root = environment.name, folder / environment.name
    done, wanted = root / "installed.json", json.dumps(asdict(environment), indent=1)
    python = root / "bin" / "python"
    if done.is_file() and done.read_text() == wanted:
        return python
    note(f"{name}: making its environment")
    _run(name, [sys.executable, "-m", "venv", "--clear", str(root)])
    for step in environment.steps:
        _run(name, [str(python), "-m", "pip", "install", "-q", *step])
    done.write_text(wanted)
    return python


def _run(name: str, command: list[str]) -> None:
    process = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if process.returncode:
        raise RuntimeError(f"the environment of {name}: `{' '.join(command[1:])}` ended with {process.returncode}: "
                           f"{process.stderr[-2000:]}")


def main() -> None:
    """Make the environments that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="PEER", help=f"any of {', '.join(ENVIRONMENTS)}; none: all")
    parser.add_argument("--environments", type=Path, default=FOLDER, metavar="FOLDER")
    given = parser.parse_args()
    for name in given.names or ENVIRONMENTS:
        note(f"{name}: {python_of(name, given.environments)}")


if __name__ == "__main__":
    main()
