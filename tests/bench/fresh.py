"""`python -m tests.bench.fresh`: minutes of set-up, `make test` and the demos from a fresh clone of the last commit.

Every step's output is kept beside the clone, in ``--folder``. Writes ``docs/results/fresh-clone.{json,md}``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.bench.pages import RESULTS, table, write_page
from tests.tools import ROOT

STEPS = ("setup-llm", "test", "demo", "demo-llm")
_COUNTS = re.compile(r"=+ (.*\b(?:passed|failed)\b.*) in ")


def main() -> None:
    """Clone, run every step, and record it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="new; gets the clone, its environment and outputs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    clone = given.folder.absolute() / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    found = {step: _make(step, clone) for step in STEPS}
    rows = [(f"`make {step}`", f"{one['minutes']:.1f}", one["exit"], "; ".join(one["counts"])) for step, one in
            found.items()]
    write_page(given.results, "fresh-clone", {"steps": found}, f"""# From a fresh clone

A new environment each time, one step after the other; each step needs the ones above it.

{table(("step", "minutes", "exit code", "pytest"), rows)}""")


def _make(step: str, clone: Path) -> dict[str, Any]:
    started = time.perf_counter()
    kept = clone.parent / f"{step}.txt"
    with kept.open("w") as output:
        ended = subprocess.run(["make", step], cwd=clone, stdout=output, stderr=subprocess.STDOUT, check=False)
    counts = _COUNTS.findall(kept.read_text(encoding="utf-8", errors="replace"))
    return {"minutes": round((time.perf_counter() - started) / 60, 1), "exit": ended.returncode, "counts": counts}


if __name__ == "__main__":
    main()
