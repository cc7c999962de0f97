"""`python -m tests.bench.damage --record docs/results`: damaged raw files through `prepare`, counted by what comes out.

Every case must end in one line, nothing published, or in rows that add up; the first that does not ends the command
with its traceback. Writes ``damage.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

from pipeline.work.provenance import commit
from tests.bench.prepare import hardware
from tests.damage import Case, cases, outcome

CASES = 1000


def main() -> None:
    """Run, count, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--record", type=Path, help="folder of the results file")
    given_ = parser.parse_args()
    counted = count(given_.cases)
    print(json.dumps(counted, indent=2))
    if given_.record is not None:
        run = {"date": datetime.now(UTC).isoformat(timespec="seconds"),
               "command": f"python -m tests.bench.damage --cases {given_.cases} --record {given_.record}",
               "commit": commit(), **counted, "hardware": hardware(),
               "versions": {name: version(name) for name in ("hypothesis", "polars", "pyarrow")}}
        given_.record.mkdir(parents=True, exist_ok=True)
        (given_.record / "damage.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def count(number: int) -> dict[str, Any]:
    """Cases by layout, damage and outcome, and the rows that came in, stayed and were dropped.

    Raises:
        AssertionError: a case that broke the promise.
    """
    layouts: dict[str, Counter[str]] = {}
    damage: dict[str, Counter[str]] = {}
    rows: Counter[str] = Counter()

    @settings(max_examples=number, deadline=None, derandomize=True, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @given(cases())
    def run(case: Case) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            found = outcome(case)
        word = "refused in one line" if found.refused is not None else (
            "read, rows dropped by reason" if found.dropped else "read whole")
        layouts.setdefault(case.layout, Counter())[word] += 1
        damage.setdefault(case.damage, Counter())[word] += 1
        rows.update({"read": found.rows, "kept": found.kept, "dropped": found.dropped})

    started = time.monotonic()
    run()
    total: Counter[str] = sum(layouts.values(), Counter())
    return {"cases": total.total(), "seconds": round(time.monotonic() - started), "outcomes": _sorted(total),
            "by_layout": {name: _sorted(words) for name, words in sorted(layouts.items())},
            "by_damage": {name: _sorted(words) for name, words in sorted(damage.items())}, "rows": dict(rows)}


def _sorted(words: Counter[str]) -> dict[str, int]:
    return dict(sorted(words.items()))


if __name__ == "__main__":
    main()
