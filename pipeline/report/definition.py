"""`report` as describe and the command line see it. It builds no artifact; :func:`pipeline.run.run` writes it."""

from __future__ import annotations

from pipeline.stage import Stage

REPORT = Stage(
    name="report",
    help="Up to report.md and report.html, as run does.",
    needs={"every artifact above": ()},
    makes={"metrics.json": (), "report.md": (), "report.html": ()},
    wanted="always",
    has_figures=True,
)
