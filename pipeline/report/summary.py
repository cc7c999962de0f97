"""What the terminal shows at the end of a run. Imports neither torch nor matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.claims import opening
from pipeline.report.tables import PROTOCOL_TITLES, headline, verdicts
from pipeline.work.text import table


def summary_table(metrics: Mapping[str, Any]) -> str:
    """The main metrics and one line per paired difference, from the metrics of a report."""
    main = metrics["main_protocol"]
    full, cutoff = headline(metrics, main), metrics["primary"].partition("@")[2]
    chosen = [i for i, name in enumerate(full.header) if "@" not in name or name.endswith(f"@{cutoff}")]
    header, *rows = ([row[i] for i in chosen] for row in (full.header, *full.rows))
    lines = [f"{metrics['name']}: test, {PROTOCOL_TITLES[main]}, {metrics['test_users']:,} users, "
             f"{len(metrics['seeds'])} seed{'s' if len(metrics['seeds']) > 1 else ''}"]
    if metrics["notice"]:
        lines.append(metrics["notice"])
    said = [*opening(metrics), *verdicts(metrics)]
    return "\n".join([*lines, "", table(header, rows), *([""] if said else []), *said])
