"""`make bench-prepare`: generated rows in the ML-20M layout through `prepare`: seconds, peak memory, and whether blocks
in files give what memory gives.

The raw files are generated once into a cache folder. Each run is a fresh process, so that its peak is its own. Writes
``docs/results/bench-prepare.{json,md}``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.bench.pages import RESULTS, note, table, write_page

ROOT = Path(__file__).resolve().parents[2]
SAMPLE, SMALL, LARGE = 1_000_000, 20_000_000, 50_000_000
USERS, ITEMS, TASTES = 137_165, 13_132, 16
"""Users and items of ML-20M after its filter; other sizes have users in proportion."""
CONFIG = "configs/paper/ml-20m-sasrec.yaml"
RUNS = ((SAMPLE, SAMPLE * 2), (SAMPLE, SAMPLE // 20), (SMALL, None), (LARGE, None))
"""Rows, and most of them in memory (None: the default)."""


def main() -> None:
    """Generate, measure, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "mentorec-bench-prepare")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--largest", type=int, default=LARGE, help="leave out runs of more rows")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rows-at-once", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(measure(given.measure, given.rows_at_once)))
        return
    runs = []
    for rows, at_once in RUNS:
        if rows <= given.largest:
            note(f"{rows:,} rows …")
            runs.append(_in_fresh_process(generate(rows, given.cache), at_once))
            note(str({name: value for name, value in runs[-1].items() if name != "files"}))
    record(given.results, runs)


def generate(rows: int, cache: Path) -> Path:
    """The folder of raw files."""
    from pipeline.prepare.config import SyntheticSource
    from pipeline.prepare.raw_layouts import write_raw_layout

    users = max(100, round(USERS * rows / SMALL))
    # The tail of the lengths varies between draws; half a percent more keeps the count above what is asked.
    source = SyntheticSource(users=users, items=ITEMS, mean_length=max(3.0, 1.005 * rows / users), tastes=TASTES,
                             popularity_exponent=1.0)
    folder = cache / f"movielens-{rows}"
    if not ((folder / "ratings.csv").is_file() and (folder / "movies.csv").is_file()):
        write_raw_layout("movielens", source, folder)
    return folder


def measure(folder: Path, rows_at_once: int | None) -> dict[str, Any]:
    """Run `prepare` here with the published split and filter of ML-20M."""
    from cluster.config import StorageConfig
    from cluster.storage import Storage
    from configs.loader import load
    from pipeline.config import RunConfig
    from pipeline.prepare.keys import key
    from pipeline.prepare.stage import prepare
    from pipeline.store import artifacts
    from pipeline.store.digests import DigestCache

    given = [] if rows_at_once is None else [f"prepare.execution.rows_at_once={rows_at_once}"]
    config = load(RunConfig, CONFIG, [f"prepare.source.folder={json.dumps(str(folder))}", *given]).prepare
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="mentorec-bench-") as root:
        start = time.perf_counter()
        stage_key = key(config)
        digested = time.perf_counter()
        storage = Storage.from_config(StorageConfig(uri=root))
        artifact = prepare(config, artifacts.begin(storage, stage_key))
        done = time.perf_counter()
        peak, made = peak_rss(), artifact.local(".")
        paths = [path for path in sorted(made.rglob("*")) if path.suffix in (".parquet", ".arrow")]
        files = dict(zip([str(path.relative_to(made)) for path in paths], DigestCache().files(paths), strict=True))
    return {"rows": artifact.manifest.counts["num_in"], "kept": artifact.manifest.counts["num_out"],
            "users": artifact.manifest.counts["users"], "rows_at_once": config.execution.rows_at_once,
            "csv_bytes": (folder / "ratings.csv").stat().st_size, "digest_seconds": round(digested - start, 1),
            "seconds": round(done - digested, 1), "peak_rss_gb": round(peak / 1e9, 2),
            "load_before": round(load_before, 1), "files": files}


def peak_rss() -> int:
    """Peak resident bytes of this process. Linux keeps the parent's in ``ru_maxrss`` across exec, so ask for VmHWM."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def record(results: Path, runs: list[dict[str, Any]]) -> None:
    """``bench-prepare.json`` and its page."""
    same = runs[0]["files"] == runs[1]["files"]
    figures = {"runs": [{name: value for name, value in run.items() if name != "files"} for run in runs],
               "same_files": same, "files_compared": len(runs[0]["files"])}
    rows = [(f"{run['rows']:,}", f"{run['users']:,}", f"{run['rows_at_once']:,}", run["seconds"], run["peak_rss_gb"],
             run["digest_seconds"], run["load_before"]) for run in runs]
    write_page(results, "bench-prepare", figures, f"""# `make bench-prepare`

Generated rows in the ML-20M layout through `prepare` (global temporal split, one-pass 4-core), each time in a fresh
process. More rows than `prepare.execution.rows_at_once` wait in files, in blocks of consecutive users. The first two
runs, in memory and in blocks, wrote {"the same" if same else "different"} bytes in all {len(runs[0]["files"])} files.
The signal in the data is built in: they show that the machinery works.

{table(("rows", "users", "rows at once", "seconds", "peak GB (RSS)", "digest s", "load before"), rows)}""")
    if not same:
        raise SystemExit("blocks and memory differ")


def hardware() -> dict[str, Any]:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines()
             if line.startswith("model name")] if info.is_file() else []
    return {"cpu": names[0] if names else platform.processor() or platform.machine(),
            "cores": len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9), "system": platform.platform()}


def _in_fresh_process(folder: Path, rows_at_once: int | None) -> dict[str, Any]:
    at_once = [] if rows_at_once is None else ["--rows-at-once", str(rows_at_once)]
    done = subprocess.run([sys.executable, "-m", "tests.bench.prepare", "--measure", str(folder), *at_once], cwd=ROOT,
                          stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
