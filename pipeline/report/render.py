"""metrics.json → report.md and report.html. Nothing else is read, so no figure can differ."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.audit.tables import tables as audit_tables
from pipeline.report import effects, tables
from pipeline.report.claims import claims, opening
from pipeline.report.plots import plots
from pipeline.report.tables import Table

_TEMPLATES = Path(__file__).parent / "templates"
_MARKDOWN = re.compile(r"([\\`*_|~$]|\](?=[(\[:])|^[-+=#]+(?=\s|$))")
"""What Markdown would read as markup: anywhere, in a link, or at the start of a line."""
_LIST = re.compile(r"^(\d+)([.)])(?=\s|$)")
_SPACE = re.compile(r"\s+")


def markdown(metrics: Mapping[str, Any]) -> str:
    """The report as Markdown: tables and sample users, no plots."""
    environment = _environment(autoescape=False)
    environment.filters["md"] = escape_markdown
    return environment.get_template("report.md.j2").render(_content(metrics)).strip() + "\n"


def html(metrics: Mapping[str, Any]) -> str:
    """The report as one HTML file that needs nothing else."""
    return page(_TEMPLATES / "report.html.j2", _content(metrics), plots(metrics))


def page(template: Path, content: Mapping[str, Any], drawn: Mapping[str, str]) -> str:
    """One HTML file that needs nothing else: a template in the report's style, which may use its macros.

    Args:
        drawn: SVG elements by name, the template's ``plots``.
    """
    environment = _environment(autoescape=True, beside=template.parent)
    style = Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(template.name).render(
        {**content, "style": style, "plots": {name: Markup(svg) for name, svg in drawn.items()}})


def escape_markdown(text: object) -> str:
    """Text of data as one line of Markdown that says just that text: no markup, no HTML, no table border."""
    line = _SPACE.sub(" ", str(text)).strip()
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LIST.sub(r"\1\\\2", _MARKDOWN.sub(r"\\\1", line))


def _environment(autoescape: bool, beside: Path = _TEMPLATES) -> Environment:
    return Environment(loader=FileSystemLoader([beside, _TEMPLATES]), autoescape=autoescape, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True)


def _content(metrics: Mapping[str, Any]) -> dict[str, Any]:
    main = metrics["main_protocol"]
    other = next(p for p in tables.PROTOCOL_TITLES if p != main)

    def present(*found: Table | None) -> list[Table]:
        return [table for table in found if table is not None and table.rows]

    return {
        "m": metrics, "verdicts": [*opening(metrics), *tables.verdicts(metrics)],
        "headline": present(tables.headline(metrics, main), tables.headline(metrics, other)),
        "differences": present(claims(metrics), tables.differences(metrics, main),
                               tables.differences(metrics, other)),
        "slices": present(*(tables.slices(metrics, kind) for kind in metrics["slices"]), *effects.tables(metrics)),
        "training": present(tables.training(metrics), tables.balance(metrics)),
        "teacher": present(tables.teacher(metrics), *(audit_tables(metrics["audit"]) if metrics["audit"] else ())),
        "profiles": present(*tables.profiles(metrics)),
        "protocol": present(tables.protocol(metrics), tables.counts(metrics), tables.sources(metrics)),
    }
