"""Starting the command line where other code has our packages' names, and from a folder that is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.commands import cli

ROOT = Path(__file__).resolve().parents[2]


def _start(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pipeline", "--help"], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, check=False)


def test_a_module_of_the_working_folder_in_place_of_a_package_of_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("raise SystemExit('imported')")
    process = _start(tmp_path)
    assert process.returncode == 2
    assert process.stderr.startswith(
        f"error: {tmp_path / 'models.py'} is found before mentorec's own package 'models'; rename it")
    assert len(process.stderr.splitlines()) == 1


def test_a_package_on_the_path_in_place_of_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("raise SystemExit('imported')")
    process = _start(ROOT.parent, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert (process.returncode, process.stderr[:7 + len(str(tmp_path))]) == (2, f"error: {tmp_path}")


def test_folders_of_our_names_without_code_are_no_packages_and_harm_nothing(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "weights.bin").write_bytes(b"")
    process = _start(tmp_path)
    assert (process.returncode, process.stderr) == (0, "")


def test_a_deleted_working_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor"])
    assert ended.value.code == 2
    assert "the working folder was deleted; change into one that exists" in capsys.readouterr().err
