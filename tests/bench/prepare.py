"""`make bench-prepare`: 20 million generated rows in the ML-20M layout through `prepare`, seconds and peak memory.

The raw files are generated once into a cache folder. The stage runs in a fresh process, so that its peak is its own.
Writes ``docs/results/bench-prepare.json`` (every run so far) and ``docs/results/bench-prepare.md`` (their table).
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
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
ROWS = 20_000_000
USERS, ITEMS, TASTES = 137_165, 13_132, 16
"""Users and items of ML-20M after its filter."""
CONFIG = "configs/paper/ml-20m-sasrec.yaml"
PACKAGES = ("numpy", "polars", "pyarrow")


def main() -> None:
    """Generate, measure, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "mentorec-bench-prepare")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(measure(given.measure)))
        return
    folder, generated_s = generate(given.rows, given.cache)
    measured = _in_fresh_process(folder)
    command = "make bench-prepare" if given.rows == ROWS else f"python -m tests.bench.prepare --rows {given.rows}"
    record(given.results, {"date": datetime.now(UTC).isoformat(timespec="seconds"), "command": command,
                           "rows_asked": given.rows, "generate_seconds": generated_s, **measured,
                           "hardware": hardware(), "versions": versions()})


def generate(rows: int, cache: Path) -> tuple[Path, float | None]:
    """The folder of raw files, and the seconds it took to write them (None: they were there)."""
    from pipeline.prepare.config import SyntheticSource
    from pipeline.prepare.raw_layouts import write_raw_layout

    share = min(1.0, rows / ROWS)
    users = max(100, round(USERS * share))
    # The tail of the lengths varies between draws; half a percent more keeps the count above what is asked.
    source = SyntheticSource(users=users, items=ITEMS, mean_length=max(3.0, 1.005 * rows / users), tastes=TASTES,
                             popularity_exponent=1.0)
    folder = cache / f"movielens-{rows}"
    if (folder / "ratings.csv").is_file() and (folder / "movies.csv").is_file():
        return folder, None
    start = time.perf_counter()
    write_raw_layout("movielens", source, folder)
    return folder, round(time.perf_counter() - start, 1)


def measure(folder: Path) -> dict[str, Any]:
    """Run `prepare` here with the published split and filter of ML-20M."""
    from cluster.config import StorageConfig
    from cluster.storage import Storage
    from configs.loader import load
    from pipeline.config import RunConfig
    from pipeline.prepare.keys import key
    from pipeline.prepare.stage import prepare
    from pipeline.store import artifacts

    config = load(RunConfig, CONFIG, [f"prepare.source.folder={json.dumps(str(folder))}"]).prepare
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="mentorec-bench-") as root:
        start = time.perf_counter()
        stage_key = key(config)
        digested = time.perf_counter()
        storage = Storage.from_config(StorageConfig(uri=root))
        manifest = prepare(config, artifacts.begin(storage, stage_key)).manifest
        done = time.perf_counter()
    return {"rows": manifest.counts["num_in"], "kept": manifest.counts["num_out"],
            "csv_bytes": (folder / "ratings.csv").stat().st_size, "digest_seconds": round(digested - start, 1),
            "seconds": round(done - digested, 1), "peak_rss_gb": round(peak_rss() / 1e9, 2),
            "load_before": round(load_before, 1)}


def peak_rss() -> int:
    """Peak resident bytes of this process. Linux keeps the parent's in ``ru_maxrss`` across exec, so ask for VmHWM."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def record(results: Path, run: dict[str, Any]) -> None:
    """Add the run to the JSON file and write the table anew."""
    results.mkdir(parents=True, exist_ok=True)
    path = results / "bench-prepare.json"
    runs = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    runs.append(run)
    path.write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")
    lines = ["# `make bench-prepare`", "",
             "Generated rows in the ML-20M layout through `prepare` (global temporal split, one-pass 4-core), in a "
             "fresh process. Signal built in: shows that the machinery works.", "",
             "| date | rows | seconds | peak GB (RSS) | digest s | hardware | load before | versions | command |",
             "|---|---|---|---|---|---|---|---|---|"]
    for entry in runs:
        machine = entry["hardware"]
        lines.append(f"| {entry['date']} | {entry['rows']:,} | {entry['seconds']} | {entry['peak_rss_gb']} "
                     f"| {entry['digest_seconds']} | {machine['cpu']}, {machine['cores']} cores, "
                     f"{machine['memory_gb']} GB | {entry['load_before']} "
                     f"| {', '.join(f'{k} {v}' for k, v in entry['versions'].items())} | `{entry['command']}` |")
    (results / "bench-prepare.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(lines[-1])


def hardware() -> dict[str, Any]:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines()
             if line.startswith("model name")] if info.is_file() else []
    return {"cpu": names[0] if names else platform.processor() or platform.machine(),
            "cores": len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9), "system": platform.platform()}


def versions() -> dict[str, str]:
    return {"Python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _in_fresh_process(folder: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "tests.bench.prepare", "--measure", str(folder)], cwd=ROOT,
                          stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
