"""Runs of the long benchmarks, kept as they finish, and the page that shows them.

A benchmark is a set of runs with names. Each finished run is written at once, so that the same command goes on where
it was stopped; ``--again`` measures anew.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.work.provenance import provenance
from tests.bench.pages import RESULTS, machine, note, versions, without_folders


class Ledger:
    """Finished runs of one benchmark: ``docs/results/bench-<name>.json``."""

    def __init__(self, name: str, results: Path = RESULTS, again: bool = False) -> None:
        self.name, self._again = name, again
        given = shlex.join(sys.argv[1:])
        self._command = without_folders(f"python -m tests.bench.{name} {given}") if given else f"make bench-{name}"
        self._path = results / f"bench-{name}.json"
        self._page = results.parent / "benchmarks.md"
        self.runs: dict[str, Any] = json.loads(self._path.read_text()) if self._path.is_file() else {}

    def run(self, name: str, work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The figures of a run, measured now unless they are there."""
        if name in self.runs and not self._again:
            note(f"{self.name}: {name}: already measured")
            return dict(self.runs[name]["figures"])
        note(f"{self.name}: {name}: measuring")
        load, started = os.getloadavg()[0], time.perf_counter()
        figures = dict(work())
        self.runs[name] = {"figures": figures, "seconds": round(time.perf_counter() - started, 1),
                           "load_before": round(load, 2), "provenance": provenance() | {"command": self._command}}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.runs, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        note(f"{self.name}: {name}: {self.runs[name]['seconds']} s: {json.dumps(figures)[:400]}")
        return figures

    def figures(self, prefix: str = "") -> dict[str, dict[str, Any]]:
        """Figures of the finished runs whose name starts so, by the rest of it."""
        return {name.removeprefix(prefix): run["figures"] for name, run in self.runs.items() if name.startswith(prefix)}

    def show(self, text: str) -> None:
        """Put this benchmark's text between its markers on the page of all, ``docs/benchmarks.md``."""
        page = self._page
        content = page.read_text(encoding="utf-8") if page.is_file() else (
            "# Benchmarks\n\nWritten by the commands themselves, section by section. Every run with its figures stands "
            "in `results/bench-*.json`.\n")
        start, end = f"<!-- bench-{self.name}: written by its command -->", f"<!-- end of bench-{self.name} -->"
        section = f"{start}\n{text.strip()}\n\n{self.origin()}\n{end}"
        if start in content:
            content = content[: content.index(start)] + section + content[content.index(end) + len(end) :]
        else:
            content = f"{content.rstrip()}\n\n{section}\n"
        page.write_text(content, encoding="utf-8")

    def origin(self) -> str:
        """One line: commands, dates, commits, machines and versions of the runs."""
        sources = [run["provenance"] for run in self.runs.values()]
        if not sources:
            return "nothing measured yet"
        last = max(sources, key=lambda each: str(each["date"]))
        dates = sorted({each["date"][:10] for each in sources})
        commits = sorted({str(each["commit"]) for each in sources})
        loads = [run["load_before"] for run in self.runs.values()]
        commands = ", ".join(f"`{each}`" for each in dict.fromkeys(each["command"] for each in sources))
        return (f"{commands} · {' to '.join(dict.fromkeys([dates[0], dates[-1]]))} · commit {', '.join(commits)} · "
                f"{self._machines()}, load before {min(loads)}–{max(loads)} · {versions(last)}")

    def _machines(self) -> str:
        """The machines; where there are several, with the runs of each."""
        runs_on: dict[str, list[str]] = {}
        for name, run in self.runs.items():
            runs_on.setdefault(machine(run["provenance"]), []).append(name)
        return "; ".join(words if len(runs_on) == 1 else f"{words} ({', '.join(names)})"
                         for words, names in runs_on.items())
