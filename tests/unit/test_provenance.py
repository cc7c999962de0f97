"""What a figure says of the checkout it comes from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.work import provenance


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A commit of a module and a page; commands run from a folder inside, as ours do."""
    for name in ("pipeline/code.py", "tuning/more.py", "docs/page.md", "docs/benchmarks.md",
                 "docs/results/audit.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("as committed\n")
    for command in (("init", "-q"), ("add", "-A"), ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "_ROOT", tmp_path / "pipeline")
    return tmp_path


@pytest.mark.parametrize(("file", "changed"), [("pipeline/code.py", True), ("tuning/more.py", True),
                                               ("docs/page.md", True),
                                               ("docs/benchmarks.md", False), ("docs/results/audit.json", False)])
def test_changed_code_is_told_and_a_page_that_a_command_wrote_is_not(checkout: Path, file: str, changed: bool) -> None:
    clean = provenance.commit()
    assert clean is not None and len(clean) == 12
    (checkout / file).write_text("changed\n")
    assert provenance.commit() == clean + "+changes" * changed


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    assert provenance.commit() is None
