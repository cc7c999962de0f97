"""Part `help`: how fast the help is, and what bad input is answered with."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.pages import note, without_folders
from tests.bench.sections import Section
from tests.bench.workshop import Workshop
from tests.tools import ROOT, cli, command

HELP_RUNS = 5
HELP_TARGET_S = 0.5
HEADER = "user_id,item_id,timestamp\n"
GOOD = HEADER + "".join(f"u{u},i{i},{1_500_000_000 + 60 * u + i}\n" for u in range(6) for i in range(4))


@dataclass(frozen=True)
class Case:
    """A bad input and what its one line must hold."""

    what: str
    args: tuple[str, ...]
    """Of the command; ``{raw}`` stands for the file below, ``{tiny}`` for the configuration of a small run."""
    says: str
    file: bytes | None = None
    suffix: str = ".csv"
    env: dict[str, str] = field(default_factory=dict)


def _table(what: str, says: str, file: bytes, suffix: str = ".csv", *more: str) -> Case:
    return Case(what, ("prepare", "-c", "{tiny}", "prepare.source={{kind: table, interactions: {raw}}}", *more), says,
                file, suffix)


def _cases(truncated_parquet: bytes) -> list[Case]:
    return [
        Case("no configuration", ("run",), "--config FILE is missing"),
        Case("missing configuration file", ("run", "-c", "configs/dmo.yaml"), "did you mean"),
        Case("broken YAML", ("run", "-c", "{raw}"), "not valid YAML", b"name: [x\n", ".yaml"),
        Case("YAML that would run code", ("run", "-c", "{raw}"), "python/object/apply",
             b"name: !!python/object/apply:os.getcwd []\n", ".yaml"),
        Case("unknown setting", ("run", "-c", "demo", "train.alhpa=1"), "did you mean 'alpha'?"),
        Case("wrong variant tag", ("run", "-c", "demo", "model.kind=gru5rec"), "legal: 'sasrec', 'bert4rec'"),
        Case("value out of range", ("run", "-c", "demo", "train.alpha=1.5"), "got 1.5"),
        Case("settings at odds", ("run", "-c", "demo", "train.distill_epochs=60"), "distill_epochs=60"),
        Case("bad override", ("run", "-c", "demo", "alpha"), "expected key.path=value"),
        Case("run name with '../'", ("run", "-c", "demo", "name=../../etc"), "run name"),
        Case("unknown option", ("run", "--fast"), "No such option"),
        Case("temporal split without time", ("run", "-c", "beauty/sasrec", "prepare.split={{kind: global_temporal}}"),
             "needs timestamps"),
        Case("missing data set", ("run", "-c", "beauty/sasrec"), "MENTOREC_DATA",
             env={"MENTOREC_DATA": "/nowhere/at/all"}),
        _table("missing column", "no column 'user_id'", b"user,item_id,timestamp\na,b,1\n"),
        _table("null ids", "2 rows with a missing user id", GOOD.encode() + b",i1,1500000500\n" * 2),
        _table("seconds and milliseconds mixed", "bring all to one unit", GOOD.encode() + b"u1,i1,1500000500000\n"),
        _table("bytes that are no UTF-8", "is not UTF-8", GOOD.encode() + b"caf\xe9,i1,1500000500\n"),
        _table("truncated Parquet", "not a whole Parquet file", truncated_parquet, ".parquet"),
        _table("zero-byte file", "zero bytes", b""),
        _table("k-core that empties the data", "leaves none", GOOD.encode(), ".csv", "prepare.filter.k_core=50"),
        Case("hub model while offline", ("run", "-c", "{tiny}", "encode.model=intfloat/multilingual-e5-large"),
             "not in the local cache", env={"HF_HUB_OFFLINE": "1", "HF_HOME": "{folder}/empty-hub-cache"}),
    ]


def run(workshop: Workshop) -> Section:
    """Time the help, then give bad input and read the answers."""
    section = Section("The command line: help and bad input (point 11)",
                      "Each command is a new process. Bad input must end with exit code 2 and one `error:` line on "
                      "stderr, without a traceback and without an artifact.")
    _time_help(section)
    folder = workshop.folder / "inputs"
    folder.mkdir()
    rows = []
    wrong = []
    cases = _cases(_truncated(folder / "whole.parquet"))
    for number, case in enumerate(cases):
        code, answer, problem = _answer(workshop, folder / f"{number:02d}", case)
        note(f"  {case.what}: {code} {without_folders(answer)}")
        rows.append((case.what, code, answer))
        wrong += [f"{case.what}: {problem}"] if problem else []
    section.check("kinds of bad input answered with exit code 2 and one clear line", f"{len(cases)} of {len(cases)}",
                  f"{len(cases) - len(wrong)} of {len(cases)}" + "".join(f"; {each}" for each in wrong), not wrong)
    section.table("Bad input", ("input", "exit code", "answer"), rows)
    return section


def _time_help(section: Section) -> None:
    def seconds(args: list[str]) -> list[float]:
        return [_timed(lambda: subprocess.run(args, cwd=ROOT, capture_output=True, check=True))
                for _ in range(HELP_RUNS)]

    seconds(command("--help"))  # compiles what is not compiled yet
    bare, shown = seconds([sys.executable, "-c", "pass"]), seconds(command("--help"))
    section.check(f"`python -m pipeline --help`, best of {HELP_RUNS}", f"< {HELP_TARGET_S} s", f"{min(shown):.2f} s",
                  min(shown) < HELP_TARGET_S)
    section.table(f"Seconds of {HELP_RUNS} runs", ("command", "least", "median", "most"),
                  [(name, *(f"{value:.2f}" for value in (min(times), statistics.median(times), max(times))))
                   for name, times in (("python -m pipeline --help", shown), ("python -c pass", bare))])


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _truncated(path: Path) -> bytes:
    import io

    import pyarrow.csv
    import pyarrow.parquet as pq

    pq.write_table(pyarrow.csv.read_csv(io.BytesIO(GOOD.encode())), path)
    return path.read_bytes()[:-50]


def _answer(workshop: Workshop, folder: Path, case: Case) -> tuple[int, str, str]:
    """Exit code, last line of stderr, and what is wrong with them ("" when nothing is)."""
    folder.mkdir()
    raw = folder / f"raw{case.suffix}"
    if case.file is not None:
        raw.write_bytes(case.file)
    names = {"raw": str(raw), "folder": str(folder), "tiny": str(workshop.config("bad-input"))}
    process = cli(*(arg.format(**names) for arg in case.args),
                  env={name: value.format(**names) for name, value in case.env.items()})
    lines = process.stderr.splitlines()
    last = lines[-1] if lines else ""
    problems = {
        f"exit code {process.returncode}": process.returncode != 2,
        "no error line at the end": not last.startswith("error: "),
        "more than one error line": sum(line.startswith("error: ") for line in lines) > 1,
        "a traceback": "Traceback" in process.stderr,
        f"does not say {case.says!r}": case.says not in last,
        "something on stdout": process.stdout != "",
        "an artifact is left": any((workshop.folder / "bad-input").rglob("manifest.json")),
    }
    return process.returncode, last, ", ".join(problem for problem, there in problems.items() if there)
