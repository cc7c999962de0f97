"""What an acceptance part found: checks with their targets, tables of figures, and both as JSON and Markdown."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_FOLDERS = re.compile(r"(?<![\w.:/~])~?/(?:[^\s/'\"|]+/)+")
"""The folders of an absolute path, up to its last name."""


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


def without_folders(text: str) -> str:
    """Absolute paths of this machine cut to their last name."""
    return _FOLDERS.sub("", text)


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
             *_grid(["part", "", "checks", "seconds", "load before"],
                    [[f"[{part['title']}](#{name})", "passed" if part["passed"] else "**FAILED**",
                      f"{sum(c['passed'] for c in part['checks'])} of {len(part['checks'])}", part["seconds"],
                      part["load_before"]] for name, part in parts.items()])]
    for name, part in parts.items():
        source = part["provenance"]
        machine, versions = source["machine"], ", ".join(f"{k} {v}" for k, v in source["versions"].items())
        lines += ["", f'<a id="{name}"></a>', f"## {part['title']}", "", part["text"], "",
                  *_grid(["", "requirement", "target", "found"],
                         [["ok" if c["passed"] else "**FAILED**", c["what"], c["target"], c["found"]]
                          for c in part["checks"]])]
        for table in part["tables"]:
            lines += ["", f"{table['caption']}:", "", *_grid(table["header"], table["rows"])]
        lines += ["", f"`{source['command']}` · {source['date']} · commit {source['commit']} · {machine['cpu']}, "
                      f"{machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']} · Python "
                      f"{source['python']}, {versions}"]
    return "\n".join(lines) + "\n"


def _grid(header: Sequence[object], rows: Sequence[Sequence[object]]) -> list[str]:
    cells = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    lines.insert(1, "|---" * len(header) + "|")
    return lines


def check_parts(parser: argparse.ArgumentParser, given: Sequence[str], legal: Iterable[str]) -> None:
    """End the command where a part that was asked for is none."""
    names = list(legal)
    for part in given:
        if part not in names:
            parser.error(f"unknown part {part!r}; legal: {', '.join(names)}")


def note(message: str) -> None:
    """Progress, on stderr."""
    print(message, file=sys.stderr, flush=True)
