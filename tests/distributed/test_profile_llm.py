"""The openai engine against a scripted server: rows conserved, ledger, retries, refresh, plan.

In this process where Ray is not what is tested: a pass over Ray's actors takes seconds to start.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.config import ActorExecution
from cluster.storage import Storage
from configs.errors import ConfigError, DataError, ResourceError
from pipeline.profile import keys
from pipeline.profile.config import ProfileConfig
from pipeline.profile.engines import engine_of
from pipeline.profile.llm.chat import ChatTokenizer
from pipeline.profile.llm.conversation import ITEM_TOO_LONG
from pipeline.profile.llm.plan import estimate_of
from pipeline.profile.stage import profile
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import ANGLE, ITEM_IDX, ITEMS, PROFILE, REASON, TITLE, USER_IDX
from pipeline.work.hub import ModelFiles
from tests.scripted_llm import GOOD, GOOD_RECORD, Faulty, ReceivedRequest, Reply, scripted_server
from tests.texts import make_text_prepared
from tests.tiny_llm import make_tokenizer

pytestmark = [pytest.mark.llm, pytest.mark.slow, pytest.mark.timeout(900)]
HERE = ActorExecution(actors=0, batch_rows=20, block_rows=20)
ON_RAY = ActorExecution(actors=1, num_cpus=0.5, batch_rows=20, block_rows=20)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def config_of(url: str, tokenizer: Path, where: ActorExecution = HERE, **changes: Any) -> ProfileConfig:
    execution = {"actors": where.actors, "batch_size": 8, "concurrent_batches": 2, "backoff_s": 0.01, "retries": 2,
                 "num_cpus": 0.25}
    engine: dict[str, Any] = {
        "kind": "openai", "base_url": url, "model": "m", "tokenizer": str(tokenizer), "max_model_len": 4096,
        "gate": {"language": False}, "execution": execution | changes.pop("execution", {}), **changes.pop("engine", {})}
    return ProfileConfig(**{"engine": engine, "execution": where, **changes})


def build(prepared: Artifact, storage: Storage, config: ProfileConfig) -> Artifact:
    out = artifacts.begin(storage, keys.key(config, prepared.fingerprint), resume=True)
    try:
        return profile(config, prepared, out)
    finally:
        out.release()


@pytest.mark.parametrize("where", [HERE, ON_RAY], ids=["here", "on-ray"])
def test_every_user_is_told_once(storage: Storage, tokenizer: Path, ray_cluster: None, where: ActorExecution) -> None:
    prepared = make_text_prepared(storage, users=60)
    with scripted_server() as server:
        artifact = build(prepared, storage, config_of(server.url, tokenizer, where))
    told, refused = artifact.read_table("profiles").to_pylist(), artifact.read_table("rejected.parquet").to_pylist()
    textless = [user for user in range(60) if user % 10 == 9]
    assert [row[USER_IDX] for row in told] == [user for user in range(60) if user not in textless]
    assert all(row[PROFILE].split() == GOOD.split() and row[ANGLE] == "overall" for row in told)
    assert [(row[USER_IDX], row[REASON]) for row in refused] == [(user, "no item text") for user in textless]
    info = artifact.manifest.info
    assert len(server.asked) == info["asked"] == 54 and info["requests"] == 54 and info["from_ledger"] == 0


def test_bad_answers_server_errors_and_a_hang(storage: Storage, tokenizer: Path, ray_cluster: None) -> None:
    prepared = make_text_prepared(storage, users=300, textless=0)
    faulty = Faulty()
    with scripted_server(faulty) as server:
        config = config_of(server.url, tokenizer, ON_RAY, max_rejected_fraction=0.5, engine={"gate": {"retries": 1}},
                           execution={"timeout_s": 4.0, "retries": 1, "batch_size": 20})
        artifact = build(prepared, storage, config)
    info, counts = artifact.manifest.info, artifact.manifest.counts
    told, refused = artifact.read_table("profiles").to_pylist(), artifact.read_table("rejected.parquet").to_pylist()
    assert counts["num_in"] == 300 == len(told) + len(refused)
    assert sorted([row[USER_IDX] for row in told] + [row[USER_IDX] for row in refused]) == list(range(300))
    assert all(row[PROFILE].split() == GOOD.split() for row in told)
    reasons = Counter(row[REASON] for row in refused)
    assert reasons == info["rejected_by_reason"]
    assert reasons["no answer: no answer within 4 s after 2 attempts"] == 1
    last_bad = {asked.prompt for asked in server.asked if int(asked.chance * 1000) >= 980}
    assert sum(reasons.values()) == len(last_bad - {faulty.hung}) + 1
    first_bad = {asked.prompt for asked in server.asked if asked.chance < 0.2}
    assert {"empty", "whitespace", "refusal", "repetition", "too short", "wrong language"} <= set(info["gate"])
    assert sum(info["gate"].values()) == len(first_bad - {faulty.hung}) + 2 * sum(
        reasons.values())
    assert info["without_answer"] == 2 and info["from_ledger"] == 0
    heard = [asked for asked in server.answered if asked.prompt != faulty.hung]
    assert info["asked"] == len({(asked.prompt, asked.seed) for asked in heard})
    assert info["requests"] == info["asked"] + info["without_answer"]
    assert info["output_tokens"] == sum(len((faulty(asked).text or "").split()) for asked in heard)


def test_the_schema_is_sent_and_the_record_told(storage: Storage, tokenizer: Path) -> None:
    prepared = make_text_prepared(storage, users=20, textless=0)

    def script(asked: ReceivedRequest) -> Reply:
        return Reply("no record at all" if asked.seed == 0 and asked.chance < 0.5 else json.dumps(GOOD_RECORD))

    with scripted_server(script) as server:
        artifact = build(prepared, storage, config_of(server.url, tokenizer, form="short"))
    assert all(row[PROFILE].startswith("Tastes: floral scents, citrus\n")
               for row in artifact.read_table("profiles").to_pylist())
    schema = server.asked[0].body["response_format"]["json_schema"]["schema"]
    assert set(schema["required"]) == set(GOOD_RECORD)
    assert set(artifact.manifest.info["gate"]) == {"not the schema"}


def test_a_second_artifact_asks_only_what_changed(storage: Storage, tokenizer: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    with scripted_server() as server:
        config = config_of(server.url, tokenizer)
        build(make_text_prepared(storage, users=40, textless=0), storage, config)
        assert len(server.asked) == 40
        capsys.readouterr()
        grown = build(make_text_prepared(storage, users=40, textless=0, more={3, 17}), storage, config)
        said = capsys.readouterr().err
        assert len(server.asked) == 42
        assert "other interactions: 2 of 2 user profiles" in said
        info = grown.manifest.info
        assert (info["requests"], info["from_ledger"], info["asked"]) == (40, 38, 2)
        other = config_of(server.url, tokenizer, engine={"sampling": {"temperature": 0.3}})
        build(make_text_prepared(storage, users=40, textless=0), storage, other)
        assert len(server.asked) == 82, "another temperature asks everything anew"
        build(make_text_prepared(storage, users=40, textless=0), storage,
              config_of(server.url, tokenizer, engine={"gate": {"language": False, "min_words": 5}}))
        assert len(server.asked) == 82, "another gate reads the same answers"


def test_a_trial_of_some_users_is_not_asked_again(storage: Storage, tokenizer: Path) -> None:
    prepared = make_text_prepared(storage, users=40, textless=0)
    with scripted_server() as server:
        trial, whole = config_of(server.url, tokenizer, users=15), config_of(server.url, tokenizer)
        spec = engine_of(trial)
        estimate, users = estimate_of(spec.prompt_builder(spec.digests()), prepared)  # type: ignore[attr-defined]
        assert (users, estimate.first) == (15, 15)
        assert build(prepared, storage, trial).manifest.counts["num_out"] == len(server.asked) == 15
        assert build(prepared, storage, whole).manifest.info["from_ledger"] == 15
        assert len(server.asked) == 40


@pytest.mark.parametrize("strategy", ["agg_after", "agg_with"])
def test_the_plan_counts_what_is_sent(storage: Storage, tokenizer: Path, strategy: str) -> None:
    chat = ChatTokenizer("t", ModelFiles(str(tokenizer)))
    prepared = make_text_prepared(storage, users=12, textless=0, longest=120 if strategy == "agg_after" else 60)

    def script(asked: ReceivedRequest) -> Reply:
        # No two answers are the same, for users whose merges are the same share the request.
        return Reply("" if asked.seed == 0 and asked.chance < 0.3 else f"{GOOD} Their mark is {asked.chance}.")

    with scripted_server(script, count=lambda messages: len(chat.ids(messages))) as server:
        config = config_of(server.url, tokenizer, angles=("overall", "recent"), engine={
            "long_history": {"strategy": strategy}, "max_model_len": 2000, "sampling": {"max_tokens": 250}})
        engine = engine_of(config)
        estimate, users = estimate_of(engine.prompt_builder(engine.digests()), prepared)  # type: ignore[attr-defined]
        artifact = build(prepared, storage, config)
        again, _ = estimate_of(engine.prompt_builder(engine.digests()), prepared)  # type: ignore[attr-defined]
    first = {asked.prompt: len(chat.ids(asked.body["messages"])) for asked in server.asked
             if asked.seed == 0 and "<profile" not in asked.prompt}
    assert users == 12 and (estimate.first, estimate.first_known) == (len(first), 0)
    assert estimate.first_tokens == estimate.asked_tokens == sum(first.values())
    assert estimate.later > 0 and len(server.asked) <= estimate.requests_bound
    assert artifact.manifest.info["prompt_tokens"] == sum(
        len(chat.ids(asked.body["messages"])) for asked in server.answered) <= estimate.prompt_bound
    assert artifact.manifest.counts["num_out"] == 24
    assert again.requests_bound == 0, "everything is in the ledger"


def test_an_item_longer_than_the_context_is_a_reason_and_the_stage_goes_on(storage: Storage, tokenizer: Path) -> None:
    prepared = make_text_prepared(storage, users=30, textless=0)
    items = prepared.read_table("items.parquet").sort_by(ITEM_IDX)
    titles = [" ".join(f"word{n}" for n in range(1200)), *items[TITLE].to_pylist()[1:]]
    storage.write_table(prepared.relative("items.parquet"),
                        items.set_column(items.column_names.index(TITLE), TITLE, pa.array(titles, pa.string())))
    histories = prepared.read_table("histories")
    beyond = [user for user, read in zip(histories[USER_IDX].to_pylist(), histories[ITEMS].to_pylist(), strict=True)
              if 1 in read]
    with scripted_server() as server:
        artifact = build(prepared, storage, config_of(server.url, tokenizer, max_rejected_fraction=0.5, engine={
            "max_model_len": 2500, "sampling": {"max_tokens": 250},
            "prompt": {"title_chars": 10_000, "line_chars": 10_000}}))
    assert 0 < len(beyond) < 15
    assert [(row[USER_IDX], row[REASON]) for row in artifact.read_table("rejected.parquet").to_pylist()] == [
        (user, ITEM_TOO_LONG) for user in beyond]
    assert artifact.manifest.counts["num_out"] == 30 - len(beyond) == len(server.asked)


def test_a_price_above_the_limit_needs_a_yes(storage: Storage, tokenizer: Path) -> None:
    prepared = make_text_prepared(storage, users=20, textless=0)
    with scripted_server() as server:
        config = config_of(server.url, tokenizer, max_cost_without_confirm=1.0,
                           execution={"tokens_per_second": 10.0, "price_per_hour": 3.0})
        out = artifacts.begin(storage, keys.key(config, prepared.fingerprint))
        with pytest.raises(ResourceError, match=r"above profile.max_cost_without_confirm=1; give --yes"):
            profile(config, prepared, out)
        assert not server.asked
        out.release()
        right = config_of(server.url, tokenizer, max_cost_without_confirm=1.0,
                          execution={"tokens_per_second": 10.0, "price_per_hour": 0.003})
        out = artifacts.begin(storage, keys.key(right, prepared.fingerprint), resume=True)
        assert out.resumed
        with pytest.raises(ResourceError, match=r"above profile.max_cost_without_confirm=1; give --yes"):
            profile(config, prepared, out)
        assert not server.asked
        out.release()
        out = artifacts.begin(storage, keys.key(right, prepared.fingerprint), resume=True)
        assert out.resumed and profile(right, prepared, out).manifest.counts["num_out"] == 20, "at the corrected price"


def test_a_price_that_is_agreed_to_goes_on(storage: Storage, tokenizer: Path) -> None:
    prepared = make_text_prepared(storage, users=20, textless=0)
    with scripted_server() as server:
        config = config_of(server.url, tokenizer, max_cost_without_confirm=1.0)
        out = artifacts.begin(storage, keys.key(config, prepared.fingerprint))
        with pytest.raises(ResourceError, match="no price is known"):
            profile(config, prepared, out)
        assert not server.asked
        out.release()
        out = artifacts.begin(storage, keys.key(config, prepared.fingerprint), resume=True)
        assert out.resumed and profile(config, prepared, out, confirmed=True).manifest.counts["num_out"] == 20


def kept(storage: Storage) -> bytes:
    """All that lies in the storage, its names too; tables are written out, for they are compressed on the disk."""
    found = b""
    for path in storage.files(""):
        table = pq.read_table(storage.path(path)).to_pydict() if path.endswith(".parquet") else None
        found += path.encode() + (storage.read_bytes(path) if table is None else str(table).encode())
    return found


def test_keys_reach_the_server_and_nothing_else(storage: Storage, tokenizer: Path, monkeypatch: pytest.MonkeyPatch,
                                                capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
                                                ) -> None:
    secret = "sk-very-secret"

    def script(asked: ReceivedRequest) -> Reply:
        """It refuses some users with a message that has the key in it."""
        return Reply(status=400, message=f"bad key {secret}") if asked.chance < 0.5 else Reply()

    prepared = make_text_prepared(storage, users=8, textless=0)
    with scripted_server(script) as server, caplog.at_level(logging.DEBUG):
        config = config_of(server.url, tokenizer, execution={"api_key_env": "MENTOREC_TEST_KEY"},
                           max_rejected_fraction=0.9, max_unanswered_fraction=0.9,
                           engine={"gate": {"retries": 0, "language": False}})
        monkeypatch.delenv("MENTOREC_TEST_KEY", raising=False)
        with pytest.raises(ConfigError, match="MENTOREC_TEST_KEY is not set"):
            build(prepared, storage, config)
        assert not server.asked
        monkeypatch.setenv("MENTOREC_TEST_KEY", secret)
        artifact = build(prepared, storage, config)
    assert [headers.get("Authorization") for headers in server.headers] == [f"Bearer {secret}"] * 8
    assert 0 < artifact.manifest.counts["num_out"] < 8
    reasons = artifact.read_table("rejected.parquet")[REASON].to_pylist()
    assert reasons and all("bad key ***" in reason for reason in reasons)
    lies, said = kept(storage), capfd.readouterr()
    assert b"bad key" in lies, "what is searched has been read"
    assert secret.encode() not in lies
    assert secret not in said.out + said.err + caplog.text


@pytest.mark.parametrize("where", [HERE, ON_RAY], ids=["here", "on-ray"])
def test_a_refused_key_stops_the_stage_and_keeps_what_was_answered(storage: Storage, tokenizer: Path, ray_cluster: None,
                                                                   where: ActorExecution) -> None:
    valid = {"now": False}

    def script(asked: ReceivedRequest) -> Reply:
        """The key runs out while the others of the first batch wait for their answer."""
        return Reply(wait_s=1.0) if valid["now"] or asked.chance < 0.5 else Reply(status=401, wait_s=0.5)

    prepared = make_text_prepared(storage, users=16, textless=0)
    with scripted_server(script) as server:
        config = config_of(server.url, tokenizer, where)
        with pytest.raises(ConfigError, match="HTTP 401"):
            build(prepared, storage, config)
        assert 0 < len(server.answered) < 16
        valid["now"] = True
        assert build(prepared, storage, config).manifest.counts["num_out"] == 16
        assert len(server.answered) == 16, "what was answered is not asked again"


def test_no_server_stops_the_stage_and_what_failed_is_asked_again(storage: Storage, tokenizer: Path) -> None:
    prepared = make_text_prepared(storage, users=20, textless=0)
    down = {"now": True}
    with scripted_server(lambda asked: Reply(status=503) if down["now"] and asked.chance < 0.5 else Reply()) as server:
        config = config_of(server.url, tokenizer, max_rejected_fraction=0.9, execution={"retries": 0},
                           engine={"gate": {"retries": 0, "language": False}})
        with pytest.raises(DataError, match="got no answer .*no answer: HTTP 503 after 1 attempts"):
            build(prepared, storage, config)
        down["now"] = False
        artifact = build(prepared, storage, config)
        assert artifact.manifest.counts["num_out"] == 20
        assert len(server.answered) == 20, "what was answered is not asked again"
    gone = config_of("http://127.0.0.1:9/v1", tokenizer, execution={"retries": 1})
    with pytest.raises(ResourceError, match="does not answer"):
        build(prepared, storage, gone)
