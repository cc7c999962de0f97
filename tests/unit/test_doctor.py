"""Preflight checks: what is missing is named with its next step, and only failures fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import doctor
from cluster.config import ClusterConfig, StorageConfig
from cluster.doctor import Check, Part, examine, passed


def test_only_failures_fail() -> None:
    assert passed([Check("a", "ok", ""), Check("b", "warn", "", "do")])
    assert not passed([Check("a", "ok", ""), Check("c", "fail", "", "do")])


def test_every_check_is_made_and_bad_ones_say_what_to_do(tmp_path: Path) -> None:
    checks = list(examine(StorageConfig(uri=str(tmp_path)), ClusterConfig()))
    assert [c.name for c in checks] == ["Python", "CPUs", "memory", "/dev/shm", "storage", "Ray", "torch", "GPUs",
                                        *(part.name for part in doctor.PARTS)]
    assert all(bool(c.next_step) == (c.status != "ok") for c in checks)


def test_examining_a_storage_root_does_not_create_it(tmp_path: Path) -> None:
    assert doctor._storage(StorageConfig(uri=str(tmp_path / "a" / "b"))).status in ("ok", "warn")
    assert list(tmp_path.iterdir()) == []


def test_a_storage_root_that_cannot_be_used_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check = doctor._storage(StorageConfig(uri=str(tmp_path / "file" / "below")))
    assert (check.status, check.next_step) == ("fail", "set storage.uri to another folder")
    assert doctor._storage(StorageConfig(uri="ftp://x/y")).status == "fail"


def test_little_space_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 2**30 - 1

    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage)
    monkeypatch.setattr(doctor, "memory_bytes", lambda: 2**31)
    monkeypatch.setattr(doctor, "cpu_count", lambda: 1)
    assert doctor._shared_memory(tmp_path) == Check("/dev/shm", "warn", "1.0 GiB free",
                                                    "start the container with --shm-size=2g or more")
    assert doctor._shared_memory(tmp_path / "absent").status == "warn"
    assert doctor._storage(StorageConfig(uri=str(tmp_path))).status == "warn"
    assert doctor._memory().detail == "2.0 GiB" and doctor._memory().status == "warn"
    assert doctor._cpus(ClusterConfig()).status == "warn"


@pytest.mark.parametrize(
    ("part", "expected"),
    [(Part("core", "no_such_module", ("no-such",), None), ("fail", "install mentorec with its dependencies")),
     (Part("extra", "no_such_module", ("no-such",), "llm"), ("warn", "pip install 'mentorec[llm]'")),
     (Part("pytest", "pytest", ("no-such", "pytest"), "dev"), ("ok", "")),
     (Part("half", "no_such_module", ("pytest",), "dev"), ("warn", "pip install 'mentorec[dev]'"))],
)
def test_a_part_is_there_when_it_is_installed_and_importable(part: Part, expected: tuple[str, str]) -> None:
    check = doctor._part(part)
    assert (check.status, check.next_step) == expected


def test_gpu_parts_say_that_no_gpu_has_verified_them() -> None:
    assert doctor._part(Part("g", "pytest", ("pytest",), "x", needs_gpu=True)).detail.endswith(doctor.UNVERIFIED)


def test_a_broken_torch_fails_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: str) -> None:
        raise OSError("libcudart.so.13: cannot open\nshared object file")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    assert list(doctor._torch()) == [
        Check("torch", "fail", "libcudart.so.13: cannot open shared object file", "pip install torch==2.13.0")]
