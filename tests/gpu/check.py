"""What works on a GPU, and how fast: one command for a bare machine. `python -m tests.gpu.check --output FILE.json`

It needs a checkout of this repository, torch 2.11 or newer with numpy, and pydantic and PyYAML; no Ray, no pyarrow, no
polars. Where there is a registry, fetch six wheels (4 MiB) for the GPU machine's Python, here 3.12:

    pip download --only-binary=:all: --python-version 3.12 --platform manylinux2014_x86_64 \\
        --platform manylinux_2_17_x86_64 -d wheels pydantic pyyaml

pydantic-core and PyYAML among them are compiled; pydantic, annotated-types, typing-extensions and typing-inspection are
pure. On the GPU machine

    pip install --no-index --no-deps --target site wheels/*.whl
    PYTHONPATH=site python -m tests.gpu.check --output gpu-check.json

compares every student and loss with the CPU, times steps at the sizes of Amazon Beauty and Amazon-M2, counts what makes
the host wait, ranks 100,000 users over 334,060 items, and encodes texts with `--text-model FOLDER` where
sentence-transformers is installed. Sections can be named; a section's figures are written as soon as they are there.
The exit code is 1 where a comparison fails or a case ends in an error, and 3 where cases were left out: none begins
after `--minutes`, by default 8. `--device cpu --small` tries the check itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.gpu import parity, ranking, steps, texts, waits
from tests.gpu.machine import facts
from tests.gpu.training import Task

Row = dict[str, Any]
Work = tuple[str, Callable[[], list[Row]]]
"""What is looked at, and what gives its rows: one whose ``ok`` is false is a failure."""


@dataclass(frozen=True)
class Plan:
    """What a check was asked for."""

    device: torch.device
    small: bool
    text_model: Path | None


def _parity(plan: Plan) -> Iterator[Work]:
    for name, compare in parity.comparisons(plan.device, 2 if plan.small else 5):
        yield name, partial(_compared, name, compare)


def _compared(name: str, compare: Callable[[], parity.Compared]) -> list[Row]:
    return [{"case": name} | asdict(compare())]


def _steps(plan: Plan) -> Iterator[Work]:
    limit = steps.Limit(1, 1.0, warm_up=1) if plan.small else steps.Limit(200, 6.0)
    for size in (steps.SMALL,) if plan.small else (steps.BEAUTY, steps.M2):
        task = size.task()
        for case in steps.cases((size,)):
            yield str(case), partial(_timed, case, task, plan.device, limit)


def _timed(case: steps.Case, task: Task, device: torch.device, limit: steps.Limit) -> list[Row]:
    return [steps.measure(case, task, device, limit)]


def _waits(plan: Plan) -> Iterator[Work]:
    size = steps.SMALL if plan.small else steps.BEAUTY
    task = size.task()
    for loss, arm in (("softmax", "plain"), ("softmax", "distilled"), ("sampled_softmax, rowwise", "plain")):
        case = steps.Case(size, loss, "fp32", arm)
        yield str(case), partial(_counted, case, task, plan.device, 1 if plan.small else 8)


def _counted(case: steps.Case, task: Task, device: torch.device, count: int) -> list[Row]:
    return [waits.count(case, task, device, count)]


def _ranking(plan: Plan) -> Iterator[Work]:
    yield "ranking", partial(ranking.measure, ranking.SMALL if plan.small else ranking.M2, plan.device)


def _texts(plan: Plan) -> Iterator[Work]:
    reason = texts.absent(plan.text_model)
    if reason is not None or plan.text_model is None:
        yield "texts", lambda: [{"case": "texts", "not_run": reason}]
    else:
        yield "texts", partial(texts.measure, plan.text_model, 32 if plan.small else 10_000, plan.device)


SECTIONS: dict[str, Callable[[Plan], Iterator[Work]]] = {
    "parity": _parity, "steps": _steps, "waits": _waits, "ranking": _ranking, "texts": _texts,
}


def check(plan: Plan, names: list[str], output: Path, minutes: float) -> tuple[list[str], list[str]]:
    """Go through sections and write what they give; returns the failures, and what there was no time to begin.

    An error is one case's failure: the machine may be there but once, and the other figures with it.
    """
    started, failures, left_out = time.perf_counter(), list[str](), list[str]()
    report: Row = {"machine": facts(plan.device), "small": plan.small, "sections": {}}
    for section in names:
        rows = report["sections"][section] = []
        for name, work in SECTIONS[section](plan):
            if time.perf_counter() - started >= 60 * minutes:
                left_out.append(f"{section}: {name}")
                continue
            try:
                found = work()
            except Exception as exc:
                found = [{"case": name, "ok": False, "error": f"{type(exc).__name__}: {exc}"[:500],
                          "traceback": traceback.format_exc()[-3000:]}]
            rows += found
            failures += [f"{section}: {row['case']}" for row in found if row.get("ok") is False]
            for row in found:
                print(f"{section}  {_line(row)}", flush=True)
        report |= {"failures": failures, "left_out": left_out, "seconds": round(time.perf_counter() - started, 1)}
        output.write_text(json.dumps(report, indent=1) + "\n")
    return failures, left_out


def _line(row: Row) -> str:
    """A row for people."""
    told = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in row.items() if name not in ("case", "traceback") and value not in (None, "")]
    return f"{row['case']}: {', '.join(told)}"


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"any of {', '.join(SECTIONS)}; none: all")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes: does the check itself work?")
    parser.add_argument("--text-model", type=Path, metavar="FOLDER", help="a sentence-transformers model")
    parser.add_argument("--minutes", type=float, default=8.0, help="no case begins later; default: 8")
    parser.add_argument("--output", type=Path, default=Path("gpu-check.json"), metavar="FILE")
    given = parser.parse_args(arguments)
    for name in given.sections:
        if name not in SECTIONS:
            parser.error(f"unknown section {name!r}; legal: {', '.join(SECTIONS)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; --device cpu --small tries the check without one")
    failures, left_out = check(Plan(torch.device(given.device), given.small, given.text_model),
                               given.sections or list(SECTIONS), given.output, given.minutes)
    for cases, what in ((left_out, "left out: the time was over"), (failures, "failed")):
        print(f"{len(cases)} {what}" + "".join(f"\n  {case}" for case in cases))
    return 1 if failures else 3 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
