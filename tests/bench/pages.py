"""What pages of results share: tables, where the figures come from, and no folder of the machine that made them."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.work.provenance import provenance
from tests.tools import ROOT

RESULTS = ROOT / "docs" / "results"
Cells = Sequence[Sequence[object]]
_FOLDERS = re.compile(r"(?<![\w.:/~])~?/(?:[^\s/'\"|]+/)+")
"""The folders of an absolute path, up to its last name."""


def table(header: Sequence[object], rows: Cells) -> str:
    """A Markdown table."""
    cells = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    lines.insert(1, "|---" * len(header) + "|")
    return "\n".join(lines)


def verdict(passed: bool | None) -> str:
    """How a target's cell says it."""
    return "–" if passed is None else "yes" if passed else "**no**"


def origin(source: Mapping[str, Any]) -> str:
    """One line on the process that :func:`provenance` describes: command, date, commit, machine, versions."""
    return (f"`{without_folders(source['command'])}` · {source['date']} · commit {source['commit']} · "
            f"{machine(source)} · {versions(source)}")


def machine(source: Mapping[str, Any]) -> str:
    """The machine's part of it."""
    of = source["machine"]
    return f"{of['cpu']}, {of['cores']} cores, {of['memory_gib']} GiB, {of['system']}"


def versions(source: Mapping[str, Any]) -> str:
    """The versions' part of it."""
    return f"Python {source['python']}, {', '.join(f'{name} {of}' for name, of in source['versions'].items())}"


def write_page(folder: Path, name: str, figures: Mapping[str, Any], text: str) -> None:
    """``<name>.json`` and ``<name>.md`` of this process, each with what they come from; the page is printed too."""
    source = provenance()
    source["command"] = without_folders(source["command"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"provenance": source, **figures}, indent=1) + "\n",
                                         encoding="utf-8")
    page = f"{text.strip()}\n\n{origin(source)}\n"
    (folder / f"{name}.md").write_text(page, encoding="utf-8")
    print(page)


def without_folders(text: str) -> str:
    """Absolute paths of this machine cut to their last name."""
    return _FOLDERS.sub("", text)


def check_parts(parser: argparse.ArgumentParser, given: Sequence[str], legal: Iterable[str]) -> None:
    """End the command where a part that was asked for is none."""
    names = list(legal)
    for part in given:
        if part not in names:
            parser.error(f"unknown part {part!r}; legal: {', '.join(names)}")


def note(message: str) -> None:
    """Progress, on stderr."""
    print(message, file=sys.stderr, flush=True)
