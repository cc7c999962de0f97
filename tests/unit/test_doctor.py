"""Preflight checks: what is missing is named with its next step, and only failures fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster import doctor
from cluster.config import ClusterConfig, StorageConfig
from cluster.doctor import Check, Part, examine, passed
from configs.errors import DataError
from tests.tools import cli_here


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


def test_a_storage_root_below_a_closed_folder_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As anybody but root sees it."""
    closed = tmp_path / "closed"
    closed.mkdir()
    real = os.stat

    def stat(path: Any, *args: Any, **more: Any) -> os.stat_result:
        if Path(str(path)).is_relative_to(closed) and str(path) != str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **more)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed)
    check = doctor._storage(StorageConfig(uri=str(closed / "inner" / "results")))
    assert (check.status, check.detail.endswith(f"{closed} cannot be written")) == ("fail", True)


def test_folders_are_looked_for_when_nodes_are_asked_and_missing_ones_are_a_failed_check() -> None:
    def folders() -> list[str]:
        raise DataError("prepare.source.folder: '/nowhere' is not there")

    list(examine(StorageConfig(), ClusterConfig(), folders=folders))
    assert list(doctor._nodes(StorageConfig(), folders)) == [
        Check("nodes", "fail", "prepare.source.folder: '/nowhere' is not there", "see the message")]


def test_data_that_are_missing_leave_the_table_of_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda *_, **__: [Check("a", "ok", "found")])
    told = cli_here("doctor", "prepare.source={kind: movielens, folder: /nowhere}", "prepare.execution.workers=2")
    assert (told.returncode, told.stderr) == (0, "") and "found" in told.stdout


def test_an_interrupt_while_ray_starts_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def interrupted(config: ClusterConfig) -> Iterator[None]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(doctor, "connect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(examine(StorageConfig(), ClusterConfig(), with_ray=True))


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
