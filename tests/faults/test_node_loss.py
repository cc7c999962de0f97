"""Three nodes, all at work; one that dies in the middle of prepare, profile, encode, train or evaluate changes
nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.store.columns import USER_IDX
from tests.job_server import environment_for
from tests.raw_files import odd_files
from tests.tools import ROOT, TINY, command, epochs_logged, saved_blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FEW, USERS, EPOCHS, RANKED, PREPARED = 300, 600, 150, 26_000, 600_000
RUN = (f"prepare.source.users={USERS}", "train.epochs=60", "train.distill_epochs=20")
TWO_WORKERS = "train.execution={num_workers: 2, cpus_per_worker: 1, threads_per_worker: 1}"
ELASTIC = "train.execution={num_workers: [2, 3], cpus_per_worker: 2, threads_per_worker: 1, resize_every_s: 5}"
ON_THREE = ("profile.execution={actors: 3, num_cpus: 1, batch_rows: 4, block_rows: 4}",
            "encode.execution={actors: 3, num_cpus: 1, batch_rows: 4, block_rows: 4}",
            TWO_WORKERS, "evaluate.execution.workers=3")


SOON_DEAD = {"RAY_health_check_period_ms": "500"}
"""Five such periods until a node that is gone counts as dead; 3 seconds each by default, for which every test waits.
One that is only slow has ten seconds for each answer, as ever."""
BEGUN: list[subprocess.Popen[str]] = []
"""Commands of the test that runs."""


@dataclass(frozen=True)
class ThreeNodes:
    """The process that holds them."""

    process: subprocess.Popen[str]
    environment: dict[str, str]
    errors: Path

    def ask(self, line: str) -> Any:
        """See tests/faults/three_nodes.py."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it says below what it died of
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, self.errors.read_text()
        return json.loads(answer)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreeNodes]:
    environment = environment_for(tmp_path_factory.mktemp("home")) | {"PYTHONPATH": str(ROOT)}
    errors = tmp_path_factory.mktemp("nodes") / "stderr"
    with errors.open("w") as stderr:
        process = subprocess.Popen([sys.executable, "-m", "tests.faults.three_nodes"], cwd=ROOT, text=True,
                                   env=environment | SOON_DEAD, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=stderr)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address, errors.read_text()
    yield ThreeNodes(process, environment | {"RAY_ADDRESS": address}, errors)
    process.communicate(timeout=120)


@pytest.fixture(autouse=True)
def none_left() -> Iterator[None]:
    """No command outlives a test that failed."""
    yield
    for process in BEGUN:
        process.kill()
        process.wait()
    BEGUN.clear()


def begun(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    BEGUN.append(subprocess.Popen(command(*arguments), cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT))
    return BEGUN[-1]


def call(environment: dict[str, str], verb: str, folder: Path, *overrides: str) -> subprocess.Popen[str]:
    (folder / "tiny.yaml").write_text(TINY)
    return begun(environment, verb, "-c", str(folder / "tiny.yaml"), *RUN, f"storage.uri={folder / 'storage'}",
                 *overrides)


def until(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 400
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it did not come so far in time"
        time.sleep(0.05)


def loses_a_node_at_work(nodes: ThreeNodes, process: subprocess.Popen[str], task: str) -> None:
    """Once each of the three has run such tasks, the one with most of them dies, and another comes."""
    at_work = set[int]()

    def all_have_worked() -> bool:
        at_work.update(place for place, tasks in enumerate(nodes.ask(f"at-work {task}")) if tasks)
        return len(at_work) == 3

    until(all_have_worked, process)
    until(lambda: nodes.ask(f"lose {task}") > 0, process)
    assert process.poll() is None, "the node died in the middle"
    assert nodes.ask("add") == 3


def ended(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return output


def test_a_node_dies_in_the_middle_of_each_stage(nodes: ThreeNodes, tmp_path: Path) -> None:
    """Three of them in one run."""
    whole, lossy = tmp_path / "whole", tmp_path / "lossy"
    whole.mkdir()
    lossy.mkdir()
    run = ("arms=[distilled]", f"prepare.source.users={FEW}")
    alone = call(dict(os.environ), "run", whole, *run, TWO_WORKERS)  # with dropout, their number is part of the address
    process = call(nodes.environment, "run", lossy, *run, *ON_THREE)
    stages = lossy / "storage" / "artifacts"

    for stage in ("profile", "encode"):
        until(lambda stage=stage: (saved_blocks(stages / stage) >= 5  # type: ignore[misc]
                                   and nodes.ask("actors") == [1, 1, 1]), process)
        assert nodes.ask("lose") > 0
        assert not any((stages / stage).glob("*/manifest.json")), "the node died in the middle"
        assert nodes.ask("add") == 3
    until(lambda: any((stages / "train").rglob("checkpoint_manager_snapshot.json")), process)  # Ray Train's own
    assert nodes.ask("lose") > 0
    assert not any((stages / "train").glob("*/manifest.json")), "the node died in the middle"
    assert nodes.ask("add") == 3
    ended(process)
    ended(alone)
    assert users_with_profiles(lossy) == users_with_profiles(whole) == list(range(FEW))
    ours, theirs = (json.loads((folder / "storage" / "runs" / "tiny" / "metrics.json").read_text())
                    for folder in (lossy, whole))
    assert ours["arms"] == theirs["arms"] and ours["baselines"] == theirs["baselines"]


def test_all_nodes_prepare_and_one_that_dies_changes_no_byte(nodes: ThreeNodes, tmp_path: Path) -> None:
    """A task takes a whole node. The files' few bad rows are refused in the same words, too."""
    source = odd_files(tmp_path / "raw", PREPARED)
    on_three = ("prepare.execution={workers: 3, num_cpus: 2, rows_at_once: 20000}",)
    (tmp_path / "odd.yaml").write_text(json.dumps({"name": "odd", "prepare": {"source": source}}))
    wanted = "prepare.filter={bad_rows: drop, k_core: 3, duplicates: last}"

    def prepare(environment: dict[str, str], name: str, *overrides: str) -> subprocess.Popen[str]:
        return begun(environment, "prepare", "-c", str(tmp_path / "odd.yaml"), f"storage.uri={tmp_path / name}",
                     *overrides)

    here = dict(os.environ)
    whole, refused = prepare(here, "whole", wanted), prepare(here, "refused")
    process = prepare(nodes.environment, "lossy", wanted, *on_three)
    loses_a_node_at_work(nodes, process, "read_part")
    ended(process)
    ended(whole)
    assert prepared(tmp_path / "lossy") == prepared(tmp_path / "whole")
    told = [process.communicate(timeout=400)[0].splitlines()[-1] for process in (
        refused, prepare(nodes.environment, "lossy", *on_three))]
    assert told[0] == told[1] and "rows with a missing user id" in told[0]
    assert not [path for path in (tmp_path / "lossy").rglob("scratch*")]


def prepared(storage: Path) -> dict[str, bytes]:
    """The files of the only `prepare` artifact that is finished."""
    (manifest,) = (storage / "artifacts" / "prepare").glob("*/manifest.json")
    made = manifest.parent / "attempts" / json.loads(manifest.read_text())["attempt"]
    return {str(path.relative_to(made)): path.read_bytes() for path in made.rglob("*") if path.is_file()}


def test_all_nodes_rank_and_one_that_dies_changes_no_rank(nodes: ThreeNodes, tmp_path: Path) -> None:
    whole, lossy = tmp_path / "whole", tmp_path / "lossy"
    whole.mkdir()
    many = ("arms=[plain]", f"prepare.source.users={RANKED}", "prepare.source.items=8000", "train.epochs=1",
            "train.distill_epochs=0", "train.batch_size=512", "train.loss={kind: sampled_softmax, negatives: 64}",
            "train.validation_users=500", "evaluate.baselines=[popularity]")
    ended(call(dict(os.environ), "train", whole, *many))
    shutil.copytree(whole, lossy)
    alone = call(dict(os.environ), "run", whole, *many)
    process = call(nodes.environment, "run", lossy, *many, "evaluate.execution.workers=6")
    loses_a_node_at_work(nodes, process, "rank_shards")
    ended(process)
    ended(alone)
    found, expected = (ranks_in(folder) for folder in (lossy, whole))
    assert found == expected and len(found) == 2
    assert all(table[USER_IDX].to_pylist() == list(range(RANKED)) for table in found.values())


def ranks_in(folder: Path) -> dict[str, pa.Table]:
    """Address of each evaluation → its ranks."""
    return {path.parts[-4]: pq.read_table(path)
            for path in (folder / "storage" / "artifacts" / "evaluate").glob("*/attempts/*/ranks.parquet")}


def test_an_elastic_group_goes_on_with_fewer_nodes_and_grows_again(nodes: ThreeNodes, tmp_path: Path) -> None:
    """Without dropout it ends where one process ends, whatever the number of workers. Small steps: Adam enlarges the
    rounding of another order of sums."""
    whole, lossy = tmp_path / "whole", tmp_path / "lossy"
    whole.mkdir()
    lossy.mkdir()
    training = ("arms=[plain]", "model.dropout=0", f"train.epochs={EPOCHS}", "train.optimizer.lr=1e-4")
    single = call(dict(os.environ), "train", whole, *training)
    # Ray may first wait so long for as many workers as before.
    process = call(nodes.environment | {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15"}, "train", lossy, *training,
                   ELASTIC)
    logs = lossy / "storage" / "artifacts" / "train"

    def epochs() -> int:
        return max((epochs_logged(log) for log in logs.glob("*/attempts/*/metrics.jsonl")), default=0)

    until(lambda: epochs() > 5, process)
    assert nodes.ask("lose") == 2
    before = epochs()
    until(lambda: epochs() > before + 5, process)
    assert nodes.ask("add") == 3
    assert process.poll() is None, "the node died, and another came, in the middle"
    output = ended(process)
    ended(single)
    alone, group = (only_manifest(folder / "storage" / "artifacts" / "train") for folder in (whole, lossy))
    assert group["fingerprint"] == alone["fingerprint"]
    assert (alone["info"]["world_sizes"], group["info"]["world_sizes"]) == ([1], [3, 2, 3]), output
    one, other = (epoch_losses(folder) for folder in (whole, lossy))
    assert len(one) == EPOCHS
    assert other == pytest.approx(one, rel=1e-5)


def epoch_losses(folder: Path) -> list[float]:
    """Of the training that ended."""
    (path,) = (folder / "storage" / "artifacts" / "train").glob("*/attempts/*/metrics.jsonl")
    records = map(json.loads, path.read_text().splitlines())
    return [record["ranking"] for record in records if record["kind"] == "epoch"]


def only_manifest(stage: Path) -> Any:
    (path,) = stage.glob("*/manifest.json")
    return json.loads(path.read_text())


def users_with_profiles(folder: Path) -> list[int]:
    (profiles,) = (folder / "storage" / "artifacts" / "profile").glob("*/attempts/*/profiles")
    return sorted(pq.read_table(profiles)[USER_IDX].to_pylist())
