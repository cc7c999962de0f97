"""The main job through the real command line: raw data to report, reuse, named changes, resumption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.loader import load
from pipeline.config import RunConfig
from pipeline.plan import PlannedStep, plan
from tests.tools import ON_RAY, ROOT, TINY, Cli, Started, cli_here, epochs_logged, strays, write_table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
"""Ray's actors and workers start in seconds on a quiet machine and in minutes on a busy one."""


def planned(config_file: Path, *overrides: str) -> dict[str, PlannedStep]:
    config = load(RunConfig, config_file, overrides)
    return {p.label: p for p in plan(config, Storage.from_config(config.storage))}


def metrics(storage: Path, run: str = "tiny") -> dict[str, Any]:
    return dict(json.loads((storage / "runs" / run / "metrics.json").read_text()))


def arm_ranks(storage: Path, config_file: Path, *overrides: str) -> dict[str, list[int]]:
    """Test ranks of both arms, by label."""
    found = {}
    for label, item in planned(config_file, *overrides).items():
        if label.startswith("evaluate/") and item.artifact is not None:
            found[label] = item.artifact.read_table("ranks.parquet")["rank"].to_pylist()
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One complete run in a process of its own with a Ray of its own, shared by the tests that only look at it."""
    folder = tmp_path_factory.mktemp("finished")
    config_file = folder / "tiny.yaml"
    config_file.write_text(TINY + f"storage: {{uri: {folder / 'storage'}}}\n")
    return config_file, cli("run", "--config", str(config_file), *ON_RAY, timeout_s=1500)


def test_run_ends_with_report_and_table(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    config_file, process = finished
    assert process.returncode == 0, process.stderr
    folder = config_file.parent / "storage" / "runs" / "tiny"
    assert {"config.json", "references.json", "metrics.json", "report.md", "report.html"} <= {
        p.name for p in folder.iterdir()}
    assert "ndcg@10" in process.stdout.lower()
    assert "signal built in" in (folder / "report.md").read_text()


def test_a_run_through_ray_says_on_stderr_what_is_ours_and_no_more(
        finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, process = finished
    assert strays(process.stderr) == []
    steps = {line.partition(":")[0] for line in process.stderr.splitlines()}
    assert {"prepare", "profile", "encode", "reduce", "train/plain/seed-0", "train/distilled/seed-0", "report"} <= steps


def test_lines_that_are_not_ours_are_found() -> None:
    ours = ("prepare: building 158d\nevaluate/baseline/popularity: done in 0.2 s\nprofile: pass 1: 3 requests\n"
            "  at most 2 GPU-hours\nerror: prepare.source: no file\n")
    assert strays("") == strays(ours) == []
    foreign = ["(MapWorker pid=12) [W] core_worker.cc:2991: ", "UserWarning: The maximum number of concurrent tasks",
               "  return forward_call()", "encode:  10%|#  | 1/10\rencode:  20%|##", "", "INFO Triton is installed but"]
    assert strays(ours + "\n".join(foreign) + "\n" + ours) == foreign


def test_second_run_does_no_work_and_starts_no_ray(
        finished: tuple[Path, subprocess.CompletedProcess[str]], cli: Cli) -> None:
    config_file, process = finished
    again = cli("run", "--config", str(config_file), *ON_RAY, env={"RAY_ADDRESS": "127.0.0.1:1"})  # cannot be joined
    assert again.returncode == 0, again.stderr
    assert again.stderr == ""
    said, _, result = again.stdout.partition("\n")
    assert said.startswith("nothing to do: every step is there already")
    assert result == process.stdout  # so nothing else stood there


def test_alpha_reuses_everything_before_train(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    config_file, _ = finished
    after = planned(config_file, *ON_RAY, "train.alpha=0.7")
    built = {label for label, item in after.items() if item.status == "build"}
    assert built == {"train/distilled/seed-0", "evaluate/distilled/seed-0"}
    assert after["train/distilled/seed-0"].changed == ["config.train.alpha: 0.4 → 0.7"]


def test_profile_form_rebuilds_from_profile_and_names_the_key(
        finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    config_file, _ = finished
    after = planned(config_file, *ON_RAY, "profile.form=long")
    assert after["prepare"].status == "reuse"
    assert all(after[s].status == "build" for s in ("profile", "encode", "reduce", "train/distilled/seed-0"))
    assert after["train/plain/seed-0"].status == "reuse"
    assert after["profile"].changed == ["config.form: 'short' → 'long'"]


@pytest.mark.parametrize("setting", [
    "profile.execution.actors=3", "encode.execution.batch_rows=7", "train.execution.threads_per_worker=2",
    "evaluate.execution.item_chunk=17", "cluster.num_cpus=4", "prepare.execution.history_rows=10"])
def test_execution_settings_change_no_fingerprint(
        finished: tuple[Path, subprocess.CompletedProcess[str]], setting: str) -> None:
    config_file, _ = finished
    before, after = planned(config_file, *ON_RAY), planned(config_file, *ON_RAY, setting)
    assert {k: v.key.fingerprint for k, v in before.items()} == {k: v.key.fingerprint for k, v in after.items()}


def test_one_changed_byte_of_raw_data_is_another_fingerprint(tiny_config: Path, tmp_path: Path) -> None:
    source = f"prepare.source={write_table(tmp_path / 'raw')}"
    before = planned(tiny_config, source)
    raw = tmp_path / "raw" / "items.csv"
    raw.write_text(raw.read_text().replace("oak table no 8\n", "oak table no 9\n", 1))
    after = planned(tiny_config, source)
    assert all(before[label].key.fingerprint != after[label].key.fingerprint for label in before)


def test_renaming_all_raw_ids_changes_no_metric(tiny_config: Path, tmp_path: Path) -> None:
    ranks = []
    for rename in (False, True):
        source = f"prepare.source={write_table(tmp_path / f'raw-{rename}', rename)}"
        process = cli_here("run", "--config", str(tiny_config), f"name=rename-{rename}", source)
        assert process.returncode == 0, process.stderr
        ranks.append(arm_ranks(tmp_path / "storage", tiny_config, source))
    assert len(ranks[0]) == 4
    assert ranks[0] == ranks[1]


def test_killed_in_training_and_rerun_ends_with_the_same_test_ranks(
        tiny_config: Path, tmp_path: Path, started: Started) -> None:
    slower = ["train.epochs=60", "train.distill_epochs=10"]
    command = [sys.executable, "-m", "pipeline", "run", "--config", str(tiny_config), *slower]
    driver = started(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    storage = tmp_path / "storage"
    deadline = time.monotonic() + 240
    while not any(epochs_logged(log) >= 15 for log in storage.glob("artifacts/train/*/attempts/*/metrics.jsonl")):
        assert time.monotonic() < deadline, "training did not get under way"
        assert driver.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    again = cli_here("run", "--config", str(tiny_config), *slower)
    assert again.returncode == 0, again.stderr
    assert "going on with the unfinished attempt" in again.stderr
    killed = arm_ranks(storage, tiny_config, *slower)

    fresh = tmp_path / "fresh"
    process = cli_here("run", "--config", str(tiny_config), f"storage.uri={fresh}", *slower)
    assert process.returncode == 0, process.stderr
    assert killed == arm_ranks(fresh, tiny_config, f"storage.uri={fresh}", *slower)
    assert metrics(storage)["arms"] == metrics(fresh)["arms"]


def test_second_process_on_the_same_run_is_refused(tiny_config: Path, tmp_path: Path) -> None:
    storage = Storage.from_config(StorageConfig(uri=str(tmp_path / "storage")))
    from pipeline.store import leases

    storage.write_json("runs/tiny/lock.json", leases.mine())  # this test's process holds the run
    process = cli_here("run", "--config", str(tiny_config))
    assert process.returncode == 2
    assert "is at work on it; wait for it, stop it" in process.stderr and "name=…" in process.stderr
    assert "Traceback" not in process.stderr
