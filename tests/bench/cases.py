"""`python -m tests.bench.cases FOLDER`: small inputs that must work or fail well, each run by its own command.

FOLDER holds groups, a group holds cases and ``expected.md``, a table of ``case``, ``today`` (the outcome before) and
``must``; a case holds its input and ``cmd``, a shell script that is given ``$DIR`` (a copy of the case) and ``$OUT``
(an empty folder). Writes ``docs/results/cases.md``: what was, what must be, and what is. Finished cases are kept in
``bench-cases.json`` beside it, so that the same command goes on; ``--again`` runs them anew.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from tests.bench.case_checks import CHECKS
from tests.bench.ledger import Ledger
from tests.bench.pages import RESULTS, table, verdict
from tests.tools import ROOT

_TOLD: Final = re.compile(r"^(error|warning|prepare: (note|warning|[\d,]+ users)|.*: exit \d+$)")
_STATUS: Final = re.compile(r"^[\w-]+: (building|reusing|done)\b")
_MOST_LINES = 3
_WIDTH = 420


@dataclass(frozen=True)
class Expected:
    """One row of ``expected.md``."""

    patterns: tuple[str, ...]
    before: str
    must: str


@dataclass(frozen=True)
class Outcome:
    """What a case did."""

    code: int
    said: list[str]
    counted: list[str]
    traceback: bool
    """One of ours: of a frame in this repository."""
    misses: list[str] | None
    """What is not as `case_checks` wants it; None: nothing is checked."""

    @property
    def as_expected(self) -> bool | None:
        """None: not checked."""
        return None if self.misses is None else not self.faults

    @property
    def faults(self) -> list[str]:
        """Misses, and what no case may have."""
        return [*(self.misses or ()), *(["traceback"] if self.traceback else []),
                *(line for line in self.counted if "≠" in line)]


def main() -> None:
    """Run every case of the groups that was not run, write the page after each, and print what is not as expected."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="*", help="pattern of group/case")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds per case")
    parser.add_argument("--again", action="store_true", help="run also what was run")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    cases = [cmd.parent for cmd in sorted(given.folder.glob("*/*/cmd"))
             if fnmatch(f"{cmd.parent.parent.name}/{cmd.parent.name}", given.only)]
    ledger = Ledger("cases", given.results, given.again)
    for case in cases:
        ledger.run(f"{case.parent.name}/{case.name}", lambda case=case: asdict(run(case, given.timeout)))
        (given.results / "cases.md").write_text(report(given.folder, ledger), encoding="utf-8")
    wrong = {name: outcome.faults for name, outcome in outcomes(ledger).items() if outcome.as_expected is False}
    for name, faults in wrong.items():
        print(f"{name}: {'; '.join(faults)}")
    sys.exit(f"{len(wrong)} cases are not as expected" if wrong else 0)


def outcomes(ledger: Ledger) -> dict[str, Outcome]:
    """By group/case, in the order of names."""
    return {name: Outcome(**figures) for name, figures in sorted(ledger.figures().items())}


def run(case: Path, timeout_s: float) -> Outcome:
    """Run a copy of a case in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="mc-") as name:
        work, out = Path(name) / "w", Path(name) / "o"
        out.mkdir()
        shutil.copytree(case, work / "case")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # this environment's `mentorec`
        environment = os.environ | {"DIR": str(work / "case"), "OUT": str(out), "PATH": path}
        process = subprocess.Popen(["bash", "-c", (case / "cmd").read_text()], cwd=work, env=environment,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   start_new_session=True)
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            late = f"not done after {timeout_s:g} s"
            return Outcome(process.returncode, [late], [], False, [late])
        output = (stderr + b"\n" + stdout).decode(errors="replace")
        output = output.replace(str(work / "case"), "$DIR").replace(str(out), "$OUT").replace(str(work), "$PWD")
        output = output.replace(str(ROOT), "$ROOT")
        counted = list(_counts(out))
        check = CHECKS.get(case.name)
        misses = None if check is None else check.misses(process.returncode, "\n".join([output, *counted]), out)
        ours = any("$ROOT/" in block for block in output.split("Traceback (most recent call last)")[1:])
        return Outcome(process.returncode, list(_lines(output)), counted, ours, misses)


def _lines(output: str) -> Iterator[str]:
    """What a user would look at: errors, warnings and notes, else the last line that is no status."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    told = [line for line in lines if _TOLD.match(line)]
    last = [line for line in lines if not _STATUS.match(line)][-1:]
    for line in list(dict.fromkeys(told or last))[-_MOST_LINES * (3 if len(told) > _MOST_LINES else 1):]:
        yield line if len(line) <= _WIDTH else line[:_WIDTH] + "…"


def _counts(out: Path) -> Iterator[str]:
    """What every `prepare` artifact says of its rows."""
    for path in sorted(out.rglob("artifacts/prepare/**/stats.json")):
        stats = json.loads(path.read_text(encoding="utf-8"))
        dropped = sum(stats["dropped"].values())
        whole = stats["raw_rows"] == stats["interactions"] + dropped
        reasons = ", ".join(f"{count} {reason}" for reason, count in stats["dropped"].items())
        yield (f"{stats['raw_rows']} rows {'=' if whole else '≠'} {stats['interactions']} kept + {dropped} dropped"
               f"{f' ({reasons})' if reasons else ''}")


def read_expected(path: Path) -> list[Expected]:
    """The rows of a Markdown table ``case | today | must``."""
    rows = [line.strip().strip("|").split(" | ", 2) for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith("| ")]
    return [Expected(tuple(_patterns(case.strip())), before.strip(), must.strip())
            for case, before, must in rows if case.strip() != "case"]


def _patterns(cases: str) -> Iterator[str]:
    """``12-pq-list-item, -struct-item`` → ``12-pq-list-item``, ``12*-struct-item``."""
    number = cases.partition("-")[0]
    for part in re.sub(r"\(.*\)", "", cases).split(","):
        yield f"{number}*{part.strip()}" if part.strip().startswith("-") else part.strip()


def report(folder: Path, ledger: Ledger) -> str:
    """The Markdown page."""
    found: dict[str, dict[str, Outcome]] = {}
    for name, outcome in outcomes(ledger).items():
        group, _, case = name.partition("/")
        found.setdefault(group, {})[case] = outcome
    every = [outcome for cases in found.values() for outcome in cases.values()]
    codes, verdicts = Counter(each.code for each in every), Counter(each.as_expected for each in every)
    lines = ["# Inputs that must work, or fail well", "", ledger.origin(), "",
             f"{len(every)} cases: {', '.join(f'exit {code}: {count}' for code, count in sorted(codes.items()))}; "
             f"as expected: {verdicts[True]}, not as expected: {verdicts[False]}, not checked: {verdicts[None]}. Each "
             "case's own command runs on a copy of it; a case of several commands has the exit code of its last. What "
             "is checked stands in `tests/bench/case_checks.py`: exit code, what is printed, what is written, values "
             "of the prepared data; and of every case that no traceback is ours and that rows read = kept + dropped. "
             "Where a command does not show all that must be, the verdict names the rest.", ""]
    for group, cases in found.items():
        expected = read_expected(folder / group / "expected.md")
        rows = []
        for case, outcome in cases.items():
            row = next((row for row in expected if any(fnmatch(case, p) for p in row.patterns)), Expected((), "", ""))
            rows.append((case, row.before, row.must, outcome.code, _verdict(case, outcome),
                         "<br>".join(map(_cell, outcome.said)), "<br>".join(dict.fromkeys(outcome.counted))))
        lines += [f"## {group}", "",
                  table(("case", "before", "must", "exit", "as expected", "printed", "rows"), rows), ""]
    return "\n".join(lines)


def _verdict(case: str, outcome: Outcome) -> str:
    if outcome.as_expected is None:
        return "not checked"
    left_open = CHECKS[case].left_open
    return "; ".join([verdict(outcome.as_expected), *map(_cell, outcome.faults),
                      *([f"not shown here: {left_open}"] if left_open else [])])


def _cell(line: str) -> str:
    return line.replace("<", "&lt;")


if __name__ == "__main__":
    main()
