"""What this machine gives to this process: CPUs and memory within affinity and cgroup limits."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def cpu_count(cgroup: Path = _CGROUP) -> int:
    """CPUs that this process may use, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        allowed = min(allowed, max(1, int(quota) // int(period)))
    return allowed


def memory_bytes(cgroup: Path = _CGROUP) -> int:
    """Memory that this process may use."""
    limit = _read(cgroup / "memory.max")
    total = int(psutil.virtual_memory().total)
    return min(total, int(limit)) if limit.isdigit() else total


def _read(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""
