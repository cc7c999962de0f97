"""The client of OpenAI-compatible servers, called directly: what it sends, waits for, gives up and never tells."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pyarrow as pa
import pytest

from configs.errors import ConfigError
from pipeline.profile.llm.asking import ERROR
from pipeline.profile.llm.config import OpenAIEngine
from pipeline.profile.llm.ledger import FINISH, OUTPUT_TOKENS, PROMPT_TOKENS, TEXT
from pipeline.profile.llm.openai import Client, OpenAIAsker
from pipeline.profile.llm.requests import LENGTH, MESSAGES, REQUEST, SEED
from tests.scripted_llm import Asked, Reply, ScriptedServer, scripted_server

KEY = "sk-very-secret"


def batch(count: int) -> pa.Table:
    return pa.table({REQUEST: [f"{n:032x}" for n in range(count)], SEED: pa.array(range(count), pa.int64()),
                     LENGTH: pa.array([7] * count, pa.int32()),
                     MESSAGES: [json.dumps([{"role": "user", "content": f"prompt {n}"}]) for n in range(count)]})


def ask(server: ScriptedServer, count: int = 1, schema: dict[str, Any] | None = None, **execution: Any
        ) -> list[dict[str, Any]]:
    config = OpenAIEngine(base_url=server.url, model="m", tokenizer="/t", sampling={"max_tokens": 9, "top_p": 0.9},
                          execution={"backoff_s": 0.01, "retries": 2, "timeout_s": 5, **execution})

    async def run() -> list[dict[str, Any]]:
        client = Client(OpenAIAsker(config, schema), lambda batch: batch)  # type: ignore[arg-type]
        rows = [row async for table in client(batch(count)) for row in table.to_pylist()]
        if client._session is not None:
            await client._session.close()
        return rows

    return asyncio.run(run())


def test_what_is_sent_and_what_comes_back() -> None:
    with scripted_server(lambda asked: Reply("one two", finish_reason="length"), count=lambda messages: 11) as server:
        rows = ask(server, 3)
    assert [row[REQUEST] for row in rows] == [f"{n:032x}" for n in range(3)]
    assert all((row[TEXT], row[FINISH], row[PROMPT_TOKENS], row[OUTPUT_TOKENS], row[ERROR]) == (
        "one two", "length", 11, 2, None) for row in rows)
    body = next(asked.body for asked in server.asked if asked.seed == 1)
    assert body == {"model": "m", "messages": [{"role": "user", "content": "prompt 1"}], "max_tokens": 9,
                    "temperature": 0.7, "top_p": 0.9, "seed": 1}
    assert "Authorization" not in server.headers[0]


def test_the_schema_goes_along() -> None:
    with scripted_server() as server:
        ask(server, schema={"type": "object"})
    assert server.asked[0].body["response_format"]["json_schema"]["schema"] == {"type": "object"}


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_what_may_pass_is_tried_again(status: int) -> None:
    with scripted_server(lambda asked: Reply(status=status) if asked.number < 2 else Reply("good")) as server:
        rows = ask(server)
    assert rows[0][TEXT] == "good" and len(server.asked) == 3


def test_after_the_last_attempt_the_row_says_why() -> None:
    with scripted_server(lambda asked: Reply(status=500) if asked.seed == 1 else Reply("good")) as server:
        rows = ask(server, 3)
    assert [row[TEXT] for row in rows] == ["good", None, "good"]
    assert [row[ERROR] for row in rows] == [None, "HTTP 500 after 3 attempts", None]
    assert len(server.asked) == 5


def test_what_the_server_refuses_is_not_tried_again() -> None:
    with scripted_server(lambda asked: Reply(status=400)) as server:
        rows = ask(server)
    assert rows[0][ERROR] == 'HTTP 400: {"error": {"message": "scripted"}}' and len(server.asked) == 1


def test_retry_after_is_obeyed() -> None:
    def script(asked: Asked) -> Reply:
        return Reply("good") if asked.number else Reply(status=429, headers={"Retry-After": "1"})

    with scripted_server(script) as server:
        started = time.monotonic()
        ask(server)
        assert time.monotonic() - started >= 1.0


def test_an_answer_that_never_comes_is_given_up() -> None:
    with scripted_server(lambda asked: Reply(wait_s=60) if asked.seed == 0 else Reply("good")) as server:
        rows = ask(server, 2, timeout_s=0.3, retries=1)
    assert rows[0][ERROR] == "no answer within 0.3 s after 2 attempts" and rows[1][TEXT] == "good"


def test_the_rate_is_kept_over_all_requests() -> None:
    with scripted_server() as server:
        started = time.monotonic()
        ask(server, 6, requests_per_second=10.0)
        assert time.monotonic() - started >= 0.5
    assert len(server.asked) == 6


def test_the_key_is_sent_and_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MENTOREC_UNIT_KEY", f"{KEY}\n")
    with scripted_server(lambda asked: Reply(status=422, message=f"bad key {KEY}")) as server:
        rows = ask(server, api_key_env="MENTOREC_UNIT_KEY")
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in rows[0][ERROR] and "***" in rows[0][ERROR]


def test_a_key_that_is_not_there_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MENTOREC_UNIT_KEY", raising=False)
    with scripted_server() as server, pytest.raises(ConfigError, match="MENTOREC_UNIT_KEY is not set"):
        ask(server, api_key_env="MENTOREC_UNIT_KEY")
    assert not server.asked


def test_a_key_in_the_config_is_refused() -> None:
    with pytest.raises(ValueError, match="never the key itself"):
        OpenAIEngine(base_url="http://h/v1", model="m", tokenizer="/t", execution={"api_key_env": "sk-abc"})
    with pytest.raises(ValueError, match="no user, password or query"):
        OpenAIEngine(base_url="http://me:secret@h/v1", model="m", tokenizer="/t")
