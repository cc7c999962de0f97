"""What tests and acceptance runs share: the real command line, a run that takes seconds, raw files, a look at a run."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.stages import STAGES

ROOT = Path(__file__).resolve().parents[1]
TINY = """
name: tiny
arms: [plain, distilled]
cluster: {num_cpus: 2}
prepare:
  source: {kind: synthetic, users: 120, items: 80, mean_length: 7}
  split: {kind: leave_one_out}
profile:
  form: short
  execution: {actors: 0, block_rows: 40}
encode:
  execution: {actors: 0}
reduce:
  method: {kind: pca, components: 8}
  quality_rows: 50
model: {kind: sasrec, hidden_dim: 16, num_blocks: 1, num_heads: 1, dropout: 0.1, max_length: 10}
train:
  epochs: 4
  early_stopping: {patience_epochs: 0}
  distill_epochs: 2
  batch_size: 32
  execution: {num_workers: 0, threads_per_worker: 1}
evaluate:
  baselines: [popularity, transitions]
  execution: {workers: 0}
report: {bootstrap_samples: 100, sample_users: 3}
"""
"""A complete run of seconds, without Ray; its storage is up to the caller."""
ON_RAY = ("profile.execution={actors: 2, num_cpus: 0.5, block_rows: 40}", "encode.execution={actors: 1, num_cpus: 0.5}",
          "reduce.fit_rows=90", "train.execution={num_workers: 1, cpus_per_worker: 0.5, threads_per_worker: 1}",
          "evaluate.execution.workers=1")
"""The same run with Ray's actors, workers and tasks in every stage that has them."""
_OURS = re.compile(rf"(?:error|{'|'.join(STAGES)})(?:/[\w-]+)*: [^\r]+")

def asking_run(run: str, url: str, tokenizer: Path, execution: str, *engine: str) -> str:
    """A run whose profiles are long and written by a server.

    Args:
        run: settings of a run with short keyword profiles, such as ``TINY``.
        execution: of the engine, as in a flow mapping: ``batch_size: 4``.
        engine: further lines of the engine's settings.
    """
    lines = "\n    ".join([*engine, f"execution: {{{execution}}}"])
    changed = run.replace("  form: short\n", f"""  form: long
  engine:
    kind: openai
    base_url: {url}
    model: m
    tokenizer: {tokenizer}
    max_model_len: 4096
    {lines}
""")
    assert changed != run
    return changed


Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def command(*args: str) -> list[str]:
    """``python -m pipeline ARGS`` by the running interpreter."""
    return [sys.executable, "-m", "pipeline", *args]


def cli(*args: str, timeout_s: float = 300, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``python -m pipeline ARGS`` and return the finished process."""
    return subprocess.run(command(*args), cwd=ROOT, capture_output=True, text=True, timeout=timeout_s,
                          env={**os.environ, **(env or {})}, check=False)


def cli_here(*args: str) -> subprocess.CompletedProcess[str]:
    """The same in this process, which imports what is heavy once: for commands that start no Ray."""
    from pipeline.commands.cli import main
    from pipeline.work.progress import set_quiet

    out, err = io.StringIO(), io.StringIO()
    code: object = None
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(args)
        except SystemExit as end:
            code = end.code
        finally:
            set_quiet(False)
    return subprocess.CompletedProcess(list(args), int(str(code or 0)), out.getvalue(), err.getvalue())


def free_port() -> int:
    """Of loopback; nobody has it at this moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def strays(printed: str) -> list[str]:
    """The lines on stderr that are not ours: each begins with its stage, or is indented below one that does.

    A bar that is drawn anew over its line is not ours either.
    """
    found, below_ours = [], False
    for line in printed.removesuffix("\n").split("\n") if printed else []:
        below_ours = _OURS.fullmatch(line) is not None or (below_ours and re.fullmatch("  [^\r]+", line) is not None)
        if not below_ours:
            found.append(line)
    return found


def write_table(folder: Path, rename: bool = False) -> str:
    """Interactions and items as CSV, and the ``prepare.source`` that reads them.

    Args:
        folder: created.
        rename: the same rows under other raw ids.
    """
    folder.mkdir(parents=True)
    user, item = ("visitor-{:03d}", "article-{:03d}") if rename else ("u{}", "i{}")
    words = ["oak table", "pine chair", "steel lamp", "wool rug", "glass vase"]
    rows, t = ["user_id,item_id,timestamp"], 1_600_000_000
    for u in range(60):
        for step in range(6):
            t += 3600
            n = 97 - (u * 7 + step * (1 + u % 5)) % 40  # descending names: file order is not id order
            rows.append(f"{user.format(90 - u)},{item.format(n)},{t}")
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n")
    items = ["item_id,title", *(f"{item.format(n)},{words[n % 5]} no {n // 5}" for n in range(40, 100))]
    (folder / "items.csv").write_text("\n".join(items) + "\n")
    return f"{{kind: table, interactions: {folder / 'interactions.csv'}, items: {folder / 'items.csv'}}}"


def epochs_logged(log: Path) -> int:
    """Epochs that a ``metrics.jsonl`` holds while it grows; a line that is being written has no end yet."""
    whole = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
    return sum(json.loads(line)["kind"] == "epoch" for line in whole)


def saved_blocks(folder: Path) -> int:
    """Blocks of mapped rows that are saved below a folder of a storage."""
    return len(_records(folder))


def saved_ids(folder: Path) -> list[int]:
    """Ids of the rows in those blocks."""
    return [row for path in _records(folder) for row in pq.read_table(path)[0].to_pylist()]


def _records(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("work/checkpoint/*.parquet") if not path.name.endswith(".pending.parquet")]


Started = Callable[[Any], Any]
"""Takes a process that a test has just started, by subprocess or multiprocessing, and returns it."""


@contextmanager
def killed_at_end() -> Iterator[Started]:
    """What is taken is killed at the end if it still runs, for an assertion failed; its pipes are closed."""
    started: list[Any] = []

    def take(process: Any) -> Any:
        started.append(process)
        return process

    try:
        yield take
    finally:
        for process in started:
            process.kill()
            if isinstance(process, BaseProcess):
                process.join()
                continue
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
