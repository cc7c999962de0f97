"""The real command line in a subprocess, on a catalogue small enough for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tools
from tests.tools import ROOT, TINY, Cli

__all__ = ["ROOT", "TINY", "Cli"]


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run ``python -m pipeline ARGS`` and return the finished process."""
    return tools.cli


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    """A configuration file of a complete run that takes seconds; its storage is the test's own folder."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY + f"storage: {{uri: {tmp_path / 'storage'}}}\n")
    return path
