"""`make test-faults`: every fault that a run must survive, the tests that inject it, and what came of them.

Runs those tests and writes ``docs/results/faults.{json,md}``; ends with 1 where one failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.work.provenance import commit
from tests.bench.pages import RESULTS, table, write_page
from tests.faults.rows import ROWS, Row
from tests.tools import ROOT


def main() -> None:
    """Run the tests of all rows, or of those that hold a word, and record what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only rows whose fault holds one of these; the others stay as they "
                        "are recorded")
    given = parser.parse_args()
    chosen = [row for row in ROWS if not given.words or any(word in row.fault for word in given.words)]
    tests = sorted({test for row in chosen for test in row.tests})
    if not tests:
        raise SystemExit(f"no fault holds {' or '.join(given.words)}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder",
                        "--durations=12", f"--junitxml={report}", *(f"tests/{test}" for test in tests)],
                       cwd=ROOT, check=False)
        found = outcomes(report.read_bytes())
    minutes = (time.monotonic() - started) / 60
    at = commit()
    ran = {row.fault: {"fault": row.fault, "must": row.must, "tests": list(row.tests), "not_tried": row.not_tried,
                       "outcome": outcome(row, found), "commit": at} for row in chosen}
    figures = merged(json.loads((RESULTS / "faults.json").read_text()) if given.words else None, ran, minutes)
    write_page(RESULTS, "faults", figures, page(figures))
    failed = [fault for fault, row in ran.items() if row["outcome"] == "failed"]
    print(f"{len(ran)} faults, {sum(row['outcome'] == 'passed' for row in ran.values())} passed, "
          f"{sum(row['outcome'] == 'not tried' for row in ran.values())} not tried, {minutes:.1f} minutes")
    raise SystemExit(f"failed: {'; '.join(failed)}" if failed else 0)


def merged(earlier: Mapping[str, Any] | None, ran: Mapping[str, Mapping[str, Any]], minutes: float) -> dict[str, Any]:
    """The figures of the page: the rows that ran, and the others as they were recorded.

    Args:
        earlier: the recorded figures; None: all rows ran.
        ran: by fault.
        minutes: of this run; the page tells those of a whole one.
    """
    if earlier is None:
        return {"rows": list(ran.values()), "minutes": round(minutes, 1)}
    recorded = {row["fault"]: {"commit": earlier["provenance"]["commit"], **row} for row in earlier["rows"]} | ran
    return {"rows": [recorded[row.fault] for row in ROWS if row.fault in recorded], "minutes": earlier["minutes"]}


def outcomes(report: bytes) -> dict[str, list[str]]:
    """pytest's report → outcomes of each test's cases, by ``file::name``."""
    found: dict[str, list[str]] = defaultdict(list)
    for case in ElementTree.fromstring(report).iter("testcase"):
        name = f"{case.get('classname', '').removeprefix('tests.').replace('.', '/')}.py::" \
               f"{case.get('name', '').partition('[')[0]}"
        tags = {child.tag for child in case}
        found[name].append("failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed")
    return found


def outcome(row: Row, found: Mapping[str, list[str]]) -> str:
    """Of all tests of a row; a test that did not run at all has failed."""
    if not row.tests:
        return "not tried"
    cases = [case for test in row.tests for case in found.get(test) or ["failed"]]
    return next((was for was in ("failed", "skipped") if was in cases), "passed")


def page(figures: Mapping[str, Any]) -> str:
    """The page of the recorded figures."""
    cells = [(row["fault"], row["must"], row["outcome"], f"`{row['commit'][:7]}`",
              row["not_tried"] or ", ".join(f"`{test.partition('::')[2]}`" for test in row["tests"]))
             for row in figures["rows"]]
    return "\n".join([
        "# Faults", "", "What may go wrong, what must happen, and the tests that make it go wrong (`make test-faults`, "
        f"{figures['minutes']} minutes for all).", "",
        table(("fault", "what must happen", "", "commit", "tests, or why there is none"), cells)])


if __name__ == "__main__":
    main()
