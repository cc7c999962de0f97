"""The real command line in a subprocess, on a catalogue small enough for tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import tools
from tests.tools import ROOT, TINY, Cli

if TYPE_CHECKING:
    from tests.made_report import Written

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


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A report with three arms and three seeds. Nobody changes it."""
    from cluster.config import StorageConfig
    from cluster.storage import Storage
    from pipeline.report.stage import write_report
    from tests.made_report import inputs_of, run_config

    storage = Storage.from_config(StorageConfig(uri=str(tmp_path_factory.mktemp("report"))))
    inputs = inputs_of(storage, run_config())
    metrics = write_report(run_config(), storage, inputs)
    return Path(storage.path("runs/made-by-hand")), metrics, inputs
