"""What a run says on stdout when it has ended: what was built and reused, the metrics, and where the report is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.storage import Storage
from pipeline.config import RunConfig
from pipeline.work.text import table

if TYPE_CHECKING:
    from pipeline.run import RunResult


def outcome(config: RunConfig, result: RunResult, until: str | None) -> Iterator[str]:
    """The lines of a finished run that went up to stage ``until`` (None: all)."""
    storage = Storage.from_config(config.storage)
    if not result.built:
        yield f"nothing to do: every step is there already ({', '.join(result.reused)})"
    if result.metrics is not None:
        from pipeline.report.summary import summary_table

        yield summary_table(result.metrics)
        yield f"report: {storage.path(result.folder)}/report.html"
        return
    if until == "audit":
        from pipeline.audit.tables import plain_text

        yield plain_text(result.artifacts["audit"].read_json("audit.json"), config.name)
        return
    yield table(("step", "was", "folder"),
                [(label, "built" if label in result.built else "reused", storage.path(artifact.folder))
                 for label, artifact in result.artifacts.items() if label.partition("/")[0] == until])


def record_outcome(config: RunConfig, result: RunResult, folder: Path) -> str:
    """Keep a run's figures below ``folder``; returns the Markdown file's path."""
    from pipeline.commands.record import record

    if "audit" in result.artifacts:
        from pipeline.audit.tables import markdown

        figures = result.artifacts["audit"].read_json("audit.json")
        return str(record(config, figures, folder, markdown(figures, config.name), "-audit"))
    from pipeline.report.summary import summary_table

    assert result.metrics is not None
    return str(record(config, result.metrics, folder, f"```\n{summary_table(result.metrics)}\n```"))
