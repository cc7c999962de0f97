"""What an acceptance part found: checks with their targets, tables of figures, and both as JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.pages import origin, table, without_folders


@dataclass(frozen=True)
class Check:
    """One requirement and what was seen of it."""

    what: str
    target: str
    found: str
    passed: bool


@dataclass(frozen=True)
class Table:
    """Printed figures."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Section:
    """The findings of one part."""

    title: str
    text: str
    """How it was measured."""
    checks: list[Check] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def check(self, what: str, target: str, found: object, passed: bool) -> None:
        """Note and print a requirement."""
        check = Check(without_folders(what), target, without_folders(str(found)), bool(passed))
        self.checks.append(check)
        print(f"{'ok  ' if check.passed else 'FAIL'} {check.what}: {check.found} (target: {check.target})", flush=True)

    def table(self, caption: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Note a table of figures."""
        self.tables.append(Table(caption, list(header), [[without_folders(str(cell)) for cell in row] for row in rows]))

    @property
    def passed(self) -> bool:
        """Whether there are checks and none failed."""
        return bool(self.checks) and all(check.passed for check in self.checks)


def record(folder: Path, name: str, order: Sequence[str], section: Section, facts: Mapping[str, Any]) -> Path:
    """Put a part's findings into ``<folder>/acceptance.json`` beside the other parts', and write the Markdown anew.

    Args:
        folder: created if absent.
        name: of the part; its earlier findings are replaced.
        order: of all parts.
        section: what was found.
        facts: seconds, load and provenance.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "acceptance.json"
    parts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    parts[name] = {"passed": section.passed, **asdict(section), **facts}
    parts = {part: parts[part] for part in order if part in parts}
    path.write_text(json.dumps(parts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    markdown = path.with_suffix(".md")
    markdown.write_text(_markdown(parts), encoding="utf-8")
    return markdown


def _markdown(parts: Mapping[str, Any]) -> str:
    lines = ["# Acceptance", "",
             "Written by `make acceptance`, through the real command line in processes of its own, on generated data "
             "(signal built in: shows that the machinery works). Machine paths are cut to file names.", "",
             table(["part", "", "checks", "seconds", "load before"],
                   [[f"[{part['title']}](#{name})", "passed" if part["passed"] else "**FAILED**",
                     f"{sum(c['passed'] for c in part['checks'])} of {len(part['checks'])}", part["seconds"],
                     part["load_before"]] for name, part in parts.items()])]
    for name, part in parts.items():
        lines += ["", f'<a id="{name}"></a>', f"## {part['title']}", "", part["text"], "",
                  table(["", "requirement", "target", "found"],
                        [["ok" if c["passed"] else "**FAILED**", c["what"], c["target"], c["found"]]
                         for c in part["checks"]])]
        for figures in part["tables"]:
            lines += ["", f"{figures['caption']}:", "", table(figures["header"], figures["rows"])]
        lines += ["", origin(part["provenance"])]
    return "\n".join(lines) + "\n"
