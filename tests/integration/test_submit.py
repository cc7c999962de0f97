"""Jobs on a cluster of this machine: the upload, the log, the exit code."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """No Ray settings of ours, the running interpreter's commands first, and a home of its own for tokens."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    bin_folder = str(Path(sys.executable).parent)
    return kept | {"PATH": f"{bin_folder}:{os.environ['PATH']}", "HOME": str(tmp_path_factory.mktemp("home")),
                   "RAY_worker_niceness": "0"}


@pytest.fixture(scope="module")
def job_server(environment: dict[str, str]) -> Iterator[str]:
    """`ray start --head --block` with a folder of its own, ended by its own handle."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # Ray's sockets need a short path
    ports = []
    for _ in range(3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(str(free.getsockname()[1]))
    head = subprocess.Popen(
        ["ray", "start", "--head", "--block", "--num-cpus", "2", "--port", ports[0], "--dashboard-port", ports[1],
         "--dashboard-agent-listen-port", ports[2], "--temp-dir", folder, "--disable-usage-stats",
         "--include-dashboard", "true"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{ports[1]}"
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert head.poll() is None, "ray start ended"
                assert time.monotonic() < deadline, "no job server"
                time.sleep(0.5)
        yield address
    finally:
        head.terminate()
        head.wait(timeout=90)
        shutil.rmtree(folder, ignore_errors=True)


def _mentorec(environment: dict[str, str], *args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pipeline", *args], cwd=cwd, env=environment, capture_output=True,
                          text=True, timeout=400, check=False)


def test_a_job_runs_from_the_upload_and_its_results_stay(
        job_server: str, environment: dict[str, str], tmp_path: Path) -> None:
    done = _mentorec(environment, "submit", "--address", job_server, "--config", "configs/demo.yaml",
                     f"storage.uri={tmp_path / 'storage'}", "prepare.source.users=60", "prepare.source.items=50",
                     "arms=[plain]", "train.epochs=3", "train.distill_epochs=0", "evaluate.baselines=[popularity]",
                     "train.execution.num_workers=0", "evaluate.execution.workers=1", "report.bootstrap_samples=100")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "storage" / "runs" / "demo" / "report.md").is_file()
    assert "ndcg@10" in done.stdout
    assert re.search(r"raysubmit_\w+: succeeded", done.stderr)


def test_a_failing_job_fails_the_command_and_shows_the_error(job_server: str, environment: dict[str, str]) -> None:
    """The file is sound here, and what it names is not there for the job."""
    failed = _mentorec(environment, "submit", "--address", job_server, "--config", "configs/demo.yaml",
                       "prepare.source={kind: movielens, folder: /nowhere}", "storage.uri=/proc/nowhere")
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "error: " in failed.stdout
    assert "failed" in failed.stderr


def test_no_wait_returns_at_once(job_server: str, environment: dict[str, str], tmp_path: Path) -> None:
    sent = _mentorec(environment, "submit", "--address", job_server, "--no-wait", "--config", "configs/demo.yaml",
                     "prepare.source={kind: movielens, folder: /nowhere}", f"storage.uri={tmp_path}")
    assert sent.returncode == 0
    assert sent.stdout == ""
    assert sent.stderr.startswith("submitted raysubmit_")


def test_a_silent_job_server_is_one_line(environment: dict[str, str]) -> None:
    refused = _mentorec(environment, "submit", "--address", "http://127.0.0.1:9", "--config", "configs/demo.yaml")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: no Ray job server answers at http://127.0.0.1:9: ")
    assert "Traceback" not in refused.stderr
