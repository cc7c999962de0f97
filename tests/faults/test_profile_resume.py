"""A killed driver, a dying actor: every user has exactly one profile, and the same bytes as without the fault."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import ArtifactError
from pipeline.profile import keys
from pipeline.store import artifacts, rows
from pipeline.store.artifacts import Artifact, StageKey
from pipeline.store.columns import USER_IDX
from tests.faults.profile_driver import CONFIG, USERS
from tests.texts import make_text_prepared
from tests.tools import Started, killed_at_end, saved_blocks, saved_ids

ROOT = Path(__file__).resolve().parents[2]
IN_FLIGHT = 2 * 10 + 4 * 10
"""Rows that may be written about and not yet saved: a batch per actor, and blocks waiting to be written."""


def start(storage: Path, log: Path, seconds: float, died: Path | None = None) -> subprocess.Popen[str]:
    arguments = [str(storage), str(log), str(seconds), *([str(died)] if died else [])]
    return subprocess.Popen([sys.executable, "-m", "tests.faults.profile_driver", *arguments], cwd=ROOT, text=True,
                            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})


def finished(storage: Path) -> Artifact:
    opened = Storage.from_config(StorageConfig(uri=str(storage)))
    aside = Storage.from_config(StorageConfig(uri=f"{storage}-key"))
    prepared = make_text_prepared(aside, users=USERS, textless=0)
    artifact = artifacts.find(opened, keys.key(CONFIG, prepared.fingerprint))
    assert artifact is not None
    return artifact


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("whole")
    with killed_at_end() as started:
        process = started(start(folder / "storage", folder / "log", 0.0))
        _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    return finished(folder / "storage")


def profile_bytes(artifact: Artifact) -> bytes:
    return Path(artifact.path("profiles/part-00000.parquet")).read_bytes()


@pytest.mark.timeout(600)
def test_a_killed_driver_loses_and_doubles_no_user(tmp_path: Path, uninterrupted: Artifact, started: Started) -> None:
    storage, log = tmp_path / "storage", tmp_path / "log"
    process = started(start(storage, log, 1.0))
    deadline = time.monotonic() + 280
    while saved_blocks(storage) < 5:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no block was saved in time"
        time.sleep(0.1)
    process.kill()
    process.wait()
    process.stderr.close()
    time.sleep(3)  # the killed driver's Ray ends by itself
    saved = saved_ids(storage)
    assert 0 < len(saved) == len(set(saved)) < USERS
    again = started(start(storage, log, 0.0))
    _, errors = again.communicate(timeout=280)
    assert again.returncode == 0, errors
    artifact = finished(storage)
    assert profile_bytes(artifact) == profile_bytes(uninterrupted)
    assert artifact.read_table("profiles")[USER_IDX].to_pylist() == list(range(USERS))
    written = Counter(int(line) for line in log.read_text().split())
    assert set(written) == set(range(USERS))
    assert {user: written[user] for user in saved} == dict.fromkeys(saved, 1), "what was saved is not written again"
    assert written.total() <= USERS + IN_FLIGHT


@pytest.mark.timeout(400)
def test_a_dying_actor_is_replaced_and_its_block_done_once(tmp_path: Path, uninterrupted: Artifact, started: Started
                                                           ) -> None:
    process = started(start(tmp_path / "storage", tmp_path / "log", 0.0, tmp_path / "died"))
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    assert (tmp_path / "died").exists()
    assert profile_bytes(finished(tmp_path / "storage")) == profile_bytes(uninterrupted)


@pytest.mark.parametrize(("written", "says"), [([0, 1, 3], r"1 missing \[2\], 0 twice"),
                                               ([0, 1, 2, 2, 3], r"0 missing \[\], 1 twice \[2\]")])
def test_a_lost_or_doubled_row_is_never_passed_on(storage: Storage, written: list[int], says: str) -> None:
    import pyarrow as pa

    out = artifacts.begin(storage, StageKey("x", 1, {}))
    out.write_table(f"{rows.RAW}/block.parquet", pa.table({"id": np.array(written)}))
    with pytest.raises(ArtifactError, match=says):
        list(rows.sorted_parts(out, "id", np.arange(4), 10))
