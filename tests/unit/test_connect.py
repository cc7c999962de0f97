"""What is decided before Ray starts: where its files go, and from which folder it is started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster import connect
from configs.errors import ResourceError

LONG = "/scratch/a-rather-long-folder-name-as-batch-systems-have-them/job-1234567"


@pytest.fixture(autouse=True)
def no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)


def test_a_short_temporary_folder_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    assert connect._ray_folder() is None
    monkeypatch.setenv("TMPDIR", "/" + "x" * 38)  # 107 bytes less the 68 that Ray adds
    assert connect._ray_folder() is None
    monkeypatch.setenv("TMPDIR", "/" + "x" * 39)
    assert connect._ray_folder() == "/tmp/ray"


def test_a_long_temporary_folder_gives_way_to_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", LONG)
    assert connect._ray_folder() == "/tmp/ray"


def test_a_long_folder_that_was_chosen_for_ray_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", LONG)
    with pytest.raises(ResourceError, match=r"RAY_TMPDIR: got '/scratch/.*', 73 bytes; legal: at most 39, .*sockets"):
        connect._ray_folder()


def test_a_long_temporary_folder_without_a_short_one_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", LONG)
    monkeypatch.setattr(connect, "_SHORT_TEMP", str(tmp_path / "absent"))
    with pytest.raises(ResourceError, match="TMPDIR: got .*set RAY_TMPDIR to a shorter folder"):
        connect._ray_folder()


def test_the_working_folder_comes_back_even_if_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="half-way"), connect._inside(connect.CODE):
        assert Path.cwd() == connect.CODE
        raise ValueError("half-way")
    assert Path.cwd() == tmp_path
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    with connect._inside(connect.CODE):
        pass
    with pytest.raises(FileNotFoundError):
        os.getcwd()
