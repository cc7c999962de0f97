"""The real vLLM on CPUs, through ``ray.data.llm`` and behind ``vllm serve``, with a tiny random-weight Gemma-2."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.config import ActorExecution
from cluster.storage import Storage
from configs.errors import ResourceError
from pipeline.profile import keys
from pipeline.profile.config import ProfileConfig
from pipeline.profile.engines import engine_of
from pipeline.profile.llm.plan import estimate_of
from pipeline.profile.stage import profile
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import ANGLE, PROFILE, REASON, USER_IDX
from tests.texts import make_text_prepared
from tests.tiny_llm import make_model
from tests.tools import free_port, strays

pytest.importorskip("vllm", reason="vLLM is not installed here; `make test-llm` has it")
pytestmark = [pytest.mark.llm, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(900)]
ACTORS = ActorExecution(actors=1, num_cpus=0.5, batch_rows=30, block_rows=30)
HERE = ActorExecution(actors=0, batch_rows=30, block_rows=30)
ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
          "VLLM_NO_USAGE_STATS": "1"}
KEY = "MENTOREC_TEST_SERVER_KEY"


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[str]:
    """Of the server, in this process, which alone asks it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY, "secret")
        yield "secret"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), max_length=4096)


def config_of(engine: dict[str, Any], **changes: Any) -> ProfileConfig:
    base: dict[str, Any] = {"gate": {"enabled": False, "retries": 1}, "sampling": {"max_tokens": 24},
                            "max_model_len": 4096}
    return ProfileConfig(**{"engine": base | engine, "execution": ACTORS, "max_rejected_fraction": 0.9,
                            "max_unanswered_fraction": 0.9, **changes})


def vllm_engine(model: Path, **changes: Any) -> dict[str, Any]:
    return {"kind": "vllm", "model": str(model), "dtype": "float32",
            "execution": {"num_gpus": 0, "num_cpus": 0.5, "batch_size": 8, "concurrent_batches": 4,
                          "engine_kwargs": {"enforce_eager": True, "max_num_seqs": 16},
                          "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}}}, **changes}


def build(prepared: Artifact, storage: Storage, config: ProfileConfig) -> Artifact:
    """Whoever handles SIGTERM does so all the while: a command ends in its own words."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        built = profile(config, prepared, artifacts.begin(storage, keys.key(config, prepared.fingerprint), resume=True))
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
    return built


def check_conserved(artifact: Artifact, users: int, angles: tuple[str, ...] = ("overall",)) -> None:
    told, refused = artifact.read_table("profiles").to_pylist(), artifact.read_table("rejected.parquet").to_pylist()
    assert sorted((row[USER_IDX], row[ANGLE]) for row in [*told, *refused]) == sorted(
        (user, angle) for user in range(users) for angle in angles)
    assert all(row[PROFILE].strip() for row in told) and all(row[REASON] for row in refused)


def test_long_histories_and_angles_through_ray_data_llm(storage: Storage, model: Path,
                                                        capfd: pytest.CaptureFixture[str]) -> None:
    """One level of merging: vLLM is loaded for each pass. Neither it nor Ray says a word."""
    config = config_of(vllm_engine(model, gate={"enabled": False, "retries": 0}, long_history={
        "strategy": "agg_after", "max_prompt_tokens": 1600}), angles=("overall", "recent"))
    check_long_histories(storage, config, levels=1)
    printed = capfd.readouterr()
    assert (strays(printed.err), printed.out) == ([], "")


def check_long_histories(storage: Storage, config: ProfileConfig, levels: int) -> None:
    """Histories of up to four prompts: every answer is asked for once, and the plan's bounds hold."""
    prepared = make_text_prepared(storage, users=12, textless=0, longest=60)
    engine = engine_of(config)
    estimate, _ = estimate_of(engine.prompt_builder(engine.digests()), prepared)  # type: ignore[attr-defined]
    artifact = build(prepared, storage, config)
    check_conserved(artifact, 12, config.angles)
    info = artifact.manifest.info
    assert info["passes"] > levels, "later prompts hold earlier answers"
    assert estimate.later > 0 and estimate.first - estimate.first_known <= info["asked"]
    assert info["prompt_tokens"] <= estimate.prompt_bound + estimate.first_tokens
    assert info["output_tokens"] <= info["requests"] * 24


def test_structured_output_is_parsed_and_vllm_reads_the_planned_tokens(storage: Storage, model: Path) -> None:
    prepared = make_text_prepared(storage, users=24, textless=0)
    config = config_of(vllm_engine(model, gate={"enabled": False, "retries": 0}, sampling={"max_tokens": 2000}),
                       form="short", max_rejected_fraction=1.0)
    engine = engine_of(config)
    estimate, _ = estimate_of(engine.prompt_builder(engine.digests()), prepared)  # type: ignore[attr-defined]
    artifact = build(prepared, storage, config)
    check_conserved(artifact, 24)
    info = artifact.manifest.info
    assert (info["requests"], info["asked"], info["prompt_tokens"]) == (24, 24, estimate.first_tokens)
    texts = artifact.read_table("profiles")[PROFILE].to_pylist()
    assert len(texts) >= 4, info
    assert all(text.startswith("Tastes: ") and "\nSummary: " in text for text in texts)


def test_a_gpu_type_that_no_node_has_is_refused_before_vllm_starts(storage: Storage, model: Path) -> None:
    """Ray would queue the engine for ever."""
    engine = vllm_engine(model)
    engine["execution"]["accelerator_type"] = "H100"
    with pytest.raises(ResourceError, match="profile: no node has a GPU of type H100; there is none of a known type"):
        build(make_text_prepared(storage, users=4), storage, config_of(engine))


@pytest.fixture(scope="module")
def served(model: Path, key: str) -> Iterator[str]:
    """``vllm serve`` on loopback with a context of 1,500 tokens; by its module, as the CPU build's command fails."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--host",
               "127.0.0.1", "--port", str(port), "--served-model-name", "tiny", "--max-model-len", "1500",
               "--enforce-eager", "--dtype", "float32", "--no-enable-chunked-prefill", "--max-num-batched-tokens",
               "4096", "--max-num-seqs", "16", "--api-key", key]
    with subprocess.Popen(command, env={**os.environ, **ON_CPU}, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 600
            while True:
                assert process.poll() is None and time.monotonic() < deadline, "vllm serve did not start"
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                except OSError:
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def test_the_openai_engine_against_vllm_serve(storage: Storage, model: Path, served: str) -> None:
    prepared = make_text_prepared(storage, users=16, textless=0, longest=40)
    engine = {"kind": "openai", "base_url": served, "model": "tiny", "tokenizer": str(model),
              "gate": {"enabled": False, "retries": 0}, "sampling": {"max_tokens": 24, "ignore_eos": True},
              "execution": {"actors": 0, "batch_size": 4, "api_key_env": KEY}}
    config = config_of(engine, execution=HERE)
    spec = engine_of(config)
    estimate, _ = estimate_of(spec.prompt_builder(spec.digests()), prepared)  # type: ignore[attr-defined]
    artifact = build(prepared, storage, config)
    check_conserved(artifact, 16)
    refused = artifact.read_table("rejected.parquet").to_pylist()
    assert 0 < len(refused) < 16, "prompts beyond the server's context are reasons, no crash"
    assert all(row[REASON].startswith("no answer: HTTP 400: ") for row in refused)
    assert artifact.manifest.info["prompt_tokens"] < estimate.first_tokens
    fits = build(prepared, storage, config_of({**engine, "max_model_len": 1500}, execution=HERE))
    assert fits.manifest.counts["num_out"] == 16
    assert fits.manifest.info["from_ledger"] > 0, "prompts that fitted before are the same"


def test_part_by_part_against_vllm_serve(storage: Storage, model: Path, served: str) -> None:
    engine = {"kind": "openai", "base_url": served, "model": "tiny", "tokenizer": str(model), "max_model_len": 1500,
              "long_history": {"strategy": "agg_with", "max_prompt_tokens": 1400},
              "execution": {"actors": 0, "batch_size": 4, "api_key_env": KEY}}
    check_long_histories(storage, config_of(engine, execution=HERE), levels=2)
