"""The driver or the process that asks dies: every user exactly once, and no more asked again than was in flight."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cluster.config import ActorExecution, StorageConfig
from cluster.storage import Storage
from pipeline.profile import keys
from pipeline.profile.config import ProfileConfig
from pipeline.profile.llm.config import OpenAIEngine, VLLMEngine
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import USER_IDX
from tests.scripted_llm import ReceivedRequest, Reply, ScriptedServer, scripted_server
from tests.texts import make_text_prepared
from tests.tiny_llm import make_model, make_tokenizer
from tests.tools import Started

pytestmark = [pytest.mark.llm, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
USERS = 120
ACTORS = ActorExecution(actors=1, num_cpus=0.5, batch_rows=60, block_rows=60)


def start(storage: Path, config: ProfileConfig) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "tests.faults.profile_llm_driver", str(storage),
                             config.model_dump_json(), str(USERS)], cwd=ROOT, text=True, stderr=subprocess.PIPE,
                            env={**os.environ, "PYTHONPATH": str(ROOT)})


def end(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    return errors


def finished(storage: Path, config: ProfileConfig) -> Artifact:
    opened = Storage.from_config(StorageConfig(uri=str(storage)))
    aside = Storage.from_config(StorageConfig(uri=f"{storage}-key"))
    prepared = make_text_prepared(aside, users=USERS, textless=0)
    artifact = artifacts.find(opened, keys.key(config, prepared.fingerprint))
    assert artifact is not None
    assert artifact.read_table("profiles")[USER_IDX].to_pylist() == list(range(USERS))
    return artifact


def until(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "it did not come so far in time"
        time.sleep(0.05)


def saved(storage: Path) -> int:
    import pyarrow.parquet as pq

    found = 0
    for part in storage.glob("ledger/*/parts/*.parquet"):
        found += pq.read_metadata(part).num_rows
    return found


def child(process: subprocess.Popen[str], name: str) -> psutil.Process:
    """The one process below the driver whose title holds ``name``."""
    below = []
    for each in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may have ended
            below += [each] if name in " ".join(each.cmdline()) else []
    assert len(below) == 1, below
    return below[0]


@pytest.fixture
def config(tmp_path: Path) -> ProfileConfig:
    return ProfileConfig(execution=ACTORS, engine={
        "kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m",
        "tokenizer": str(make_tokenizer(tmp_path / "tokenizer")), "max_model_len": 4096, "gate": {"language": False},
        "execution": {"batch_size": 5, "concurrent_batches": 2, "num_cpus": 0.25}})


def at(config: ProfileConfig, url: str) -> ProfileConfig:
    assert isinstance(config.engine, OpenAIEngine)
    return config.model_copy(update={"engine": config.engine.model_copy(update={"base_url": url})})


def distinct(server: ScriptedServer) -> set[tuple[str, int | None]]:
    return {(asked.prompt, asked.seed) for asked in list(server.asked)}


def repeated(server: ScriptedServer) -> int:
    return len(server.asked) - len(distinct(server))


@pytest.mark.timeout(900)
def test_a_killed_asker_is_replaced_and_a_killed_driver_goes_on(tmp_path: Path, config: ProfileConfig, started: Started
                                                                ) -> None:
    storage, killed = tmp_path / "storage", threading.Event()

    def script(asked: ReceivedRequest) -> Reply:  # from a third on, nothing is answered before the kill
        return Reply(wait_s=0.3 if killed.is_set() or len(server.asked) <= USERS // 3 else 60.0)

    with scripted_server(script) as server:
        config = at(config, server.url)
        process = started(start(storage, config))
        until(lambda: len(server.asked) > USERS // 3, process)
        asker = child(process, "MapBatches(Client)")
        killed.set()
        asker.kill()
        until(lambda: saved(storage) >= USERS // 2, process)
        twice = repeated(server)
        process.kill()
        process.wait()
        process.stderr.close()
        time.sleep(3)  # the killed driver's Ray ends by itself
        before = saved(storage)
        assert USERS // 2 <= before < USERS
        said = end(started(start(storage, config)))
        artifact = finished(storage, config)
    most = config.engine.execution.in_flight  # type: ignore[union-attr]
    assert 0 < twice <= most
    assert len(distinct(server)) == USERS and repeated(server) <= twice + most
    told = re.search(r"(\d+) of 120 answers are saved; of the (\d+) others at most (\d+) were in flight", said)
    assert told is not None and [int(n) for n in told.groups()] == [before, USERS - before, min(USERS - before, most)]
    assert artifact.manifest.info["asked"] == saved(storage) == USERS


@pytest.fixture(scope="module")
def vllm_config(tmp_path_factory: pytest.TempPathFactory) -> ProfileConfig:
    pytest.importorskip("vllm", reason="vLLM is not installed here; `make test-llm` has it")
    return ProfileConfig(execution=ACTORS, engine={
        "kind": "vllm", "model": str(make_model(tmp_path_factory.mktemp("model"))), "max_model_len": 2048,
        "gate": {"enabled": False, "retries": 0}, "sampling": {"max_tokens": 150, "ignore_eos": True},
        "execution": {"num_gpus": 0, "num_cpus": 0.5, "batch_size": 4, "concurrent_batches": 2,
                      "engine_kwargs": {"enforce_eager": True, "max_num_seqs": 8}}})


def doubles(storage: Path) -> int:
    """Answers in the ledger beyond one per request."""
    import pyarrow.parquet as pq

    requests = pq.read_table(next(storage.glob("ledger/*/parts")))["request"].to_pylist()
    assert len(set(requests)) == USERS
    return len(requests) - USERS


@pytest.mark.timeout(900)
def test_a_killed_vllm_engine_is_replaced_and_a_killed_driver_goes_on(tmp_path: Path, vllm_config: ProfileConfig,
                                                                      started: Started) -> None:
    storage = tmp_path / "storage"
    process = started(start(storage, vllm_config))
    until(lambda: saved(storage) >= 12, process)
    child(process, "EngineCore").kill()
    at_kill = saved(storage)
    until(lambda: saved(storage) >= at_kill + 40, process)
    engine = child(process, "EngineCore")
    process.kill()
    process.wait()
    process.stderr.close()
    _, alive = psutil.wait_procs([engine], timeout=60)
    assert not alive, "the engine ends with its driver"
    before = saved(storage)
    assert before < USERS
    end(started(start(storage, vllm_config)))
    finished(storage, vllm_config)
    assert isinstance(vllm_config.engine, VLLMEngine)
    assert doubles(storage) <= vllm_config.engine.execution.in_flight, "of the dead engine's; none of the driver's"
