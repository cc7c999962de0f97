"""Part `job`: the demo as a job on a cluster of this machine, and a job that fails."""

from __future__ import annotations

import json
import re
import subprocess
import time

from tests.bench.pages import note
from tests.bench.sections import Section
from tests.bench.workshop import TIMEOUT_S, Workshop
from tests.job_server import job_server
from tests.tools import ROOT

_UPLOAD_LIMIT_MB = 5.0
_MEASURE = ("from pathlib import Path; "
            "print('bytes:', sum(file.stat().st_size for file in Path('.').rglob('*') if file.is_file()))")


def run(workshop: Workshop) -> Section:
    """Submit the demo by Ray's own command, then a job whose data is not there."""
    section = Section("Jobs on a cluster (point 9)",
                      "`ray start --head` on this machine, then `ray job submit --working-dir . -- python -m pipeline "
                      "run --config configs/demo.yaml` from the repository's folder: the job's bare `ray.init()` finds "
                      "the cluster.")
    storage = workshop.folder / "job"
    with job_server() as (address, environment):
        started = time.perf_counter()
        demo = _submit(address, environment, f"storage.uri={storage}")
        seconds = time.perf_counter() - started
        failing = _submit(address, environment, "prepare.source={kind: movielens, folder: /nowhere}",
                          f"storage.uri={workshop.folder / 'failing'}")
        told = _ray_submit(address, environment, "python", "-c", _MEASURE)
    found = re.search(r"bytes: (\d+)", told.stdout)
    size = int(found[1]) / 1e6 if found else None
    report = storage / "runs" / "demo" / "report.md"
    section.check("the demo as a job ends with its report", "exit code 0, report.md",
                  f"exit code {demo.returncode}, {report.name if report.is_file() else 'no report'}",
                  demo.returncode == 0 and report.is_file())
    section.check("a failing job", "non-zero exit code, its error shown",
                  f"exit code {failing.returncode}; {_error(failing.stdout)}",
                  failing.returncode != 0 and bool(_error(failing.stdout)))
    section.check("the working folder as it arrives at the job, unpacked", f"< {_UPLOAD_LIMIT_MB:g} MB",
                  f"{size:.2f} MB" if size is not None else f"not said: {told.stderr[-200:]}",
                  size is not None and size < _UPLOAD_LIMIT_MB)
    if report.is_file():
        arms = json.loads((storage / "runs" / "demo" / "metrics.json").read_text())["arms"]
        section.table(f"The job's test metrics, seen items removed; {seconds:.0f} s from the submission",
                      ("arm", "ndcg@10", "recall@10"),
                      [(arm, *(f"{found['seen_removed'][name]['mean']:.4f}" for name in ("ndcg@10", "recall@10")))
                       for arm, found in arms.items()])
    return section


def _submit(address: str, environment: dict[str, str], *overrides: str) -> subprocess.CompletedProcess[str]:
    return _ray_submit(address, environment, "python", "-m", "pipeline", "run", "--config", "configs/demo.yaml",
                       *overrides)


def _ray_submit(address: str, environment: dict[str, str], *entrypoint: str) -> subprocess.CompletedProcess[str]:
    started = time.perf_counter()
    process = subprocess.run(["ray", "job", "submit", "--address", address, "--working-dir", ".", "--", *entrypoint],
                             cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    note(f"  ray job submit: {time.perf_counter() - started:.1f} s, exit code {process.returncode}")
    return process


def _error(log: str) -> str:
    return next((line for line in log.splitlines() if line.startswith("error: ")), "")
