"""Folders of files on their way to an object store, of processes that live and of some that were killed."""

from __future__ import annotations

import multiprocessing
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

from cluster.uploads import upload_folder

PROCESSES = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the machine's temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def _upload(told: Any, over: Any) -> None:
    with upload_folder() as folder:
        (folder / "a").write_bytes(b"x")
        told.put(folder)
        over.wait()


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(temporary: Path) -> None:
    told, over = PROCESSES.Queue(), PROCESSES.Event()
    process = PROCESSES.Process(target=_upload, args=(told, over))
    process.start()
    folder = told.get(timeout=60)
    try:
        with upload_folder() as own:
            assert stat.S_IMODE(own.parent.stat().st_mode) == 0o700
            assert own.parent.name.startswith(f"mentorec-upload-{os.getuid()}-") and not list(own.iterdir())
            with upload_folder():
                assert own.exists() and (folder / "a").exists()
        assert list(temporary.iterdir()) == [folder.parent]
    finally:
        process.kill()
        process.join()
    assert (folder / "a").exists()
    with upload_folder() as own:
        assert list(temporary.iterdir()) == [own.parent]
    assert not list(temporary.iterdir())


def test_what_is_no_folder_of_this_user_stays(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = f"mentorec-upload-{os.getuid()}-"
    (temporary / f"{prefix}file").touch()
    (temporary / f"{prefix}folder").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: -1)
    with upload_folder():
        pass
    assert {path.name for path in temporary.iterdir()} == {f"{prefix}file", f"{prefix}folder"}
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with upload_folder():
        pass
    assert [path.name for path in temporary.iterdir()] == [f"{prefix}file"]


def _hurry(told: Any) -> None:
    """Folders in quick succession."""
    lost = 0
    for _ in range(100):
        with upload_folder() as folder:
            (folder / "a").touch()
            lost += not (folder / "a").exists()
    told.put(lost)


def test_processes_that_begin_together_keep_their_folders(temporary: Path) -> None:
    told = PROCESSES.Queue()
    racers = [PROCESSES.Process(target=_hurry, args=(told,)) for _ in range(3)]
    for racer in racers:
        racer.start()
    assert [told.get(timeout=120) for _ in racers] == [0, 0, 0]
    for racer in racers:
        racer.join()
    assert not list(temporary.iterdir())
