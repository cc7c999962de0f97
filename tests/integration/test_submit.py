"""Jobs on a cluster of this machine: the upload, the log, the exit code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.addresses import is_here
from tests.integration.conftest import ROOT
from tests.job_server import job_server
from tests.tools import Started, epochs_logged, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, dict[str, str]]]:
    with job_server() as started:
        yield started


@pytest.fixture
def environment(cluster: tuple[str, dict[str, str]]) -> dict[str, str]:
    return cluster[1]


@pytest.fixture
def address(cluster: tuple[str, dict[str, str]]) -> str:
    return cluster[0]


def _mentorec(environment: dict[str, str], *args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pipeline", *args], cwd=cwd, env=environment, capture_output=True,
                          text=True, timeout=400, check=False)


@pytest.fixture(scope="module")
def submitted(cluster: tuple[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
              ) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The storage of a small run that was submitted, and the command."""
    address, environment = cluster
    storage = tmp_path_factory.mktemp("submitted") / "storage"
    return storage, _mentorec(
        environment, "submit", "--address", address, "--config", "configs/demo.yaml", f"storage.uri={storage}",
        "prepare.source.users=60", "prepare.source.items=50", "arms=[plain]", "train.epochs=3",
        "train.distill_epochs=0", "evaluate.baselines=[popularity]", "train.execution.num_workers=0",
        "evaluate.execution.workers=1", "report.bootstrap_samples=100")


def test_a_job_runs_from_the_upload_and_its_results_stay(submitted: tuple[Path, subprocess.CompletedProcess[str]]
                                                         ) -> None:
    storage, done = submitted
    assert done.returncode == 0, done.stdout + done.stderr
    assert (storage / "runs" / "demo" / "report.md").is_file()
    assert "ndcg@10" in done.stdout
    assert re.search(r"raysubmit_\w+: succeeded", done.stderr)


def test_the_head_is_known_to_be_of_this_machine(address: str) -> None:
    assert is_here(address) and is_here(None)


def test_a_search_goes_as_a_job_too_and_its_files_stay(address: str, environment: dict[str, str], tmp_path: Path
                                                       ) -> None:
    (tmp_path / "search.yaml").write_text(f"""
name: sent
run: demo
overrides: ["prepare.source={{kind: synthetic, users: 60, items: 50}}", train.epochs=2, train.distill_epochs=1,
            train.execution.num_workers=0, "storage.uri={tmp_path / 'storage'}"]
space: {{train.alpha: {{kind: choice, values: [0.2, 0.5]}}}}
search: {{kind: grid}}
asha: null
""")
    for folder in ("pipeline", "models", "configs", "cluster", "tuning"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    done = _mentorec(environment, "submit", "--command", "tune", "--address", address, "--config", "search.yaml",
                     cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    board = (tmp_path / "storage" / "tune" / "sent" / "leaderboard.csv").read_text().splitlines()
    assert len(board) == 3
    assert "2 trials, 0 failed; the best: " in done.stdout, done.stdout


def test_the_shipped_file_deploys_what_was_trained(submitted: tuple[Path, subprocess.CompletedProcess[str]],
                                                   address: str, environment: dict[str, str], tmp_path: Path) -> None:
    exported = _mentorec(environment, "export", "demo", str(tmp_path / "recommender"), f"storage.uri={submitted[0]}")
    assert exported.returncode == 0, exported.stderr
    port = free_port()
    deployed = yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text())
    deployed["http_options"]["port"] = port
    deployed["applications"][0]["args"] |= {"model": str(tmp_path / "recommender"), "replicas": 1, "num_cpus": 0.5}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(deployed))
    serve = [str(Path(sys.executable).with_name("serve")), "deploy", str(tmp_path / "serve.yaml"), "--address", address]
    done = subprocess.run(serve, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
                          check=False)
    assert done.returncode == 0, done.stderr
    history = json.dumps({"history": ["B000000003", "B000000008"], "k": 3}).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/recommend", data=history,
                                   headers={"Content-Type": "application/json"})
    deadline = time.monotonic() + 180
    while True:
        try:
            with urllib.request.urlopen(asked, timeout=30) as answer:
                items = json.load(answer)["items"]
            break
        except OSError:  # nobody listens yet, or no replica is up: a URLError, an HTTPError
            assert time.monotonic() < deadline, "the service does not answer"
            time.sleep(1)
    assert len(items) == 3 and all(item["title"] for item in items)
    subprocess.run([serve[0], "shutdown", "-y", "--address", address], env=environment, capture_output=True,
                   timeout=120, check=True)


def test_a_failing_job_fails_the_command_and_shows_the_error(address: str, environment: dict[str, str], tmp_path: Path
                                                             ) -> None:
    """The file is sound here, and what it names is not there for the job."""
    failed = _mentorec(environment, "submit", "--address", address, "--config", "configs/demo.yaml",
                       "prepare.source={kind: movielens, folder: /nowhere}", f"storage.uri={tmp_path}")
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert re.search("^error: .*/nowhere", failed.stdout, re.MULTILINE), failed.stdout
    assert re.search(r"^raysubmit_\w+: failed$", failed.stderr, re.MULTILINE), failed.stderr


def test_a_stopped_job_that_is_sent_again_goes_on_where_it_was(address: str, environment: dict[str, str],
                                                                tmp_path: Path, started: Started) -> None:
    from ray.job_submission import JobSubmissionClient

    sent = ("submit", "--address", address, "--config", "configs/demo.yaml", f"storage.uri={tmp_path / 'storage'}",
            "prepare.source.users=60", "prepare.source.items=50", "arms=[plain]", "train.epochs=400",
            "train.early_stopping.patience_epochs=0", "train.distill_epochs=0", "evaluate.baselines=[]",
            "train.execution.num_workers=0", "evaluate.execution.workers=0", "report.bootstrap_samples=100")

    def send() -> Any:
        return started(subprocess.Popen([sys.executable, "-m", "pipeline", *sent], cwd=ROOT, env=environment, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE))

    watched = send()

    def epochs() -> int:
        return max((epochs_logged(log) for log in (tmp_path / "storage").glob("artifacts/train/*/attempts/*/*.jsonl")),
                   default=0)

    deadline = time.monotonic() + 300
    while epochs() < 20:
        assert time.monotonic() < deadline and watched.poll() is None
        time.sleep(0.05)
    job = watched.stderr.readline().split()[-1]
    JobSubmissionClient(address).stop_job(job)
    watched.communicate(timeout=120)
    assert watched.returncode == 1 and 20 <= epochs() < 400
    fewest, again, deadline = 400, send(), time.monotonic() + 300
    while again.poll() is None:
        assert time.monotonic() < deadline, "it did not end in time"
        fewest = min(fewest, epochs() or 400)
        time.sleep(0.05)
    out, err = again.communicate()
    assert again.returncode == 0, out + err
    assert fewest >= 15, "it went on from a checkpoint"
    assert len(list((tmp_path / "storage" / "artifacts").glob("train/*/attempts/*"))) == 1
    assert (tmp_path / "storage" / "runs" / "demo" / "report.md").is_file()


def test_no_wait_returns_at_once(address: str, environment: dict[str, str], tmp_path: Path) -> None:
    sent = _mentorec(environment, "submit", "--address", address, "--no-wait", "--config", "configs/demo.yaml",
                     "prepare.source={kind: movielens, folder: /nowhere}", f"storage.uri={tmp_path}")
    assert sent.returncode == 0
    assert sent.stdout == ""
    assert sent.stderr.startswith("submitted raysubmit_")


def test_a_silent_job_server_is_one_line(environment: dict[str, str]) -> None:
    refused = _mentorec(environment, "submit", "--address", "http://127.0.0.1:9", "--config", "configs/demo.yaml")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: no Ray job server answers at http://127.0.0.1:9: ")
    assert "Traceback" not in refused.stderr
