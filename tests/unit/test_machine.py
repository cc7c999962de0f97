"""CPUs and memory within cgroup limits."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from cluster import machine


@pytest.mark.parametrize(("quota", "expected"), [("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1),
                                                 ("max 100000", 8), ("900000 100000", 8)])
def test_a_cpu_quota_bounds_the_count(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(8)))
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert machine.cpu_count(tmp_path) == expected


def test_without_cgroups_the_machine_is_what_is_there(tmp_path: Path) -> None:
    assert machine.cpu_count(tmp_path) == len(machine.os.sched_getaffinity(0))
    assert machine.memory_bytes(tmp_path) == psutil.virtual_memory().total


@pytest.mark.parametrize(("limit", "expected"), [("1048576", 1048576), ("max", None), (str(2**62), None)])
def test_a_memory_limit_bounds_the_size(tmp_path: Path, limit: str, expected: int | None) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    assert machine.memory_bytes(tmp_path) == (expected or psutil.virtual_memory().total)
