"""A run's report belongs to the artifacts and settings that its stamp names."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.commands import cli
from tests.tools import TINY


def test_a_report_that_was_stopped_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures may be new and its stamp old: the next command with the old settings would show what is not its."""
    from pipeline.report import stage as report

    config = tmp_path / "tiny.yaml"
    config.write_text(TINY + f"storage: {{uri: {tmp_path / 'storage'}}}\n")

    def main(*args: str) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.main(["run", "-c", str(config), "arms=[plain]", *args])
        return int(ended.value.code or 0)

    assert main() == 0
    stamp = tmp_path / "storage" / "runs" / "tiny" / "report.json"
    before, whole, written = stamp.read_text(), report.write_report, []

    def stops(*args: object, **named: object) -> object:
        written.append(whole(*args, **named))  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "write_report", stops)
    assert main("report.bootstrap_samples=300") == 130
    assert written and not stamp.exists()
    monkeypatch.undo()
    assert main() == 0 and stamp.read_text() == before
