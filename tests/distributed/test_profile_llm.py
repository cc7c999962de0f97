"""The openai engine on Ray against a scripted server: rows conserved, ledger, retries, refresh, plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.config import ActorExecution
from cluster.storage import Storage
from pipeline import artifacts
from pipeline.artifacts import Artifact
from pipeline.columns import ANGLE, PROFILE, REASON, USER_IDX
from pipeline.profile import keys
from pipeline.profile.config import ProfileConfig
from pipeline.profile.stage import profile
from tests.scripted_llm import GOOD, scripted_server
from tests.texts import make_text_prepared
from tests.tiny_llm import make_tokenizer

pytestmark = pytest.mark.usefixtures("ray_cluster")
ACTORS = ActorExecution(actors=1, num_cpus=0.5, batch_rows=20, block_rows=20)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def config_of(url: str, tokenizer: Path, **changes: Any) -> ProfileConfig:
    execution = {"batch_size": 8, "concurrent_batches": 2, "backoff_s": 0.01, "retries": 2, "num_cpus": 0.25}
    engine: dict[str, Any] = {
        "kind": "openai", "base_url": url, "model": "m", "tokenizer": str(tokenizer), "max_model_len": 4096,
        "gate": {"language": False}, "execution": execution | changes.pop("execution", {}), **changes.pop("engine", {})}
    return ProfileConfig(**{"engine": engine, "execution": ACTORS, **changes})


def build(prepared: Artifact, storage: Storage, config: ProfileConfig) -> Artifact:
    return profile(config, prepared, artifacts.begin(storage, keys.key(config, prepared.fingerprint), resume=True))


def test_every_user_is_told_once(storage: Storage, tokenizer: Path) -> None:
    prepared = make_text_prepared(storage, users=60)
    with scripted_server() as server:
        artifact = build(prepared, storage, config_of(server.url, tokenizer))
    told, refused = artifact.read_table("profiles").to_pylist(), artifact.read_table("rejected.parquet").to_pylist()
    textless = [user for user in range(60) if user % 10 == 9]
    assert [row[USER_IDX] for row in told] == [user for user in range(60) if user not in textless]
    assert all(row[PROFILE].split() == GOOD.split() and row[ANGLE] == "overall" for row in told)
    assert [(row[USER_IDX], row[REASON]) for row in refused] == [(user, "no item text") for user in textless]
    info = artifact.manifest.info
    assert len(server.asked) == info["asked"] == 54 and info["requests"] == 54 and info["from_ledger"] == 0
