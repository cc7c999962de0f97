"""Where a figure comes from: machine, versions, commit, command, date. No user, host or path names."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "ray", "polars", "pyarrow", "numpy", "sentence-transformers", "umap-learn", "optuna")
_PAGES = (":(top,exclude)docs/results", ":(top,exclude)docs/benchmarks.md")
_ROOT = Path(__file__).resolve().parent.parent


def provenance() -> dict[str, Any]:
    """JSON-ready facts about this process and the machine it runs on."""
    import psutil

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": _command(),
        "commit": commit(),
        "machine": {"cpu": _cpu_model(), "cores": os.cpu_count(),
                    "memory_gib": round(psutil.virtual_memory().total / 2**30),
                    "system": f"{platform.system()} {platform.machine()}"},
        "python": platform.python_version(),
        "versions": versions,
    }


def commit() -> str | None:
    """The checkout's commit, with ``+changes`` when tracked files differ, but for the pages of results that commands
    write as they go. None outside a checkout."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=_ROOT, capture_output=True, text=True,
                              check=True).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no", "--", ":/", *_PAGES],
                                 cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}+changes" if changed else head


def _command() -> str:
    name = Path(sys.argv[0])
    program = "mentorec" if name.name in ("mentorec", "__main__.py") else name.name
    return " ".join([program, *sys.argv[1:]])


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or "unknown"
    return platform.processor() or "unknown"
