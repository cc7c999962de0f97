"""`make acceptance`: what the main job promises, shown through the real command line, with the printed figures.

Writes ``docs/results/acceptance.md`` and ``.json``, part by part; a part that runs again replaces its earlier findings.
Exit code 1 when a part misses a target.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from pipeline.work.provenance import provenance
from tests.bench import asking, disks, help, jobs, kill, parity, reuse, search
from tests.bench.pages import RESULTS, check_parts, note
from tests.bench.sections import Section, record
from tests.bench.workshop import Workshop

PARTS: dict[str, Callable[[Workshop], Section]] = {
    "help": help.run, "reuse": reuse.run, "kill": kill.run, "parity": parity.run, "search": search.run, "job": jobs.run,
    "asking": asking.run, "disks": disks.run}


def main() -> None:
    """Run the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; none: all")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    given = parser.parse_args()
    check_parts(parser, given.parts, PARTS)
    os.environ.pop("RAY_ADDRESS", None)  # every command starts a Ray of its own
    failed = []
    with tempfile.TemporaryDirectory(prefix="mentorec-acceptance-") as folder:
        for name in given.parts or PARTS:
            if not _run_part(name, Workshop(Path(folder)), given.results):
                failed.append(name)
    if failed:
        sys.exit(f"missed a target: {', '.join(failed)}")


def _run_part(name: str, workshop: Workshop, results: Path) -> bool:
    """Run one part and keep what it found, also when it broke."""
    note(f"{name}:")
    load = os.getloadavg()[0]
    started = time.perf_counter()
    try:
        section = PARTS[name](workshop)
    except Exception as exc:
        traceback.print_exc()
        section = Section(f"Part `{name}`", "The part broke off; what it had found is lost.")
        section.check("the part runs to its end", "no error", f"{type(exc).__name__}: {exc}", False)
    facts = {"seconds": round(time.perf_counter() - started, 1), "load_before": round(load, 1),
             "provenance": provenance() | {"command": f"python -m tests.bench.acceptance {name}"}}
    note(f"{name}: {facts['seconds']} s; {record(results, name, list(PARTS), section, facts)}")
    return section.passed


if __name__ == "__main__":
    main()
