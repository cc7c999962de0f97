"""The client of OpenAI-compatible servers, called directly: what it sends, waits for, gives up and never tells."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from tenacity import AsyncRetrying, RetryCallState

from configs.errors import ConfigError, ResourceError
from pipeline.profile.llm import openai
from pipeline.profile.llm.config import OpenAIEngine
from pipeline.profile.llm.inference import ERROR
from pipeline.profile.llm.ledger import FINISH, OUTPUT_TOKENS, PROMPT_TOKENS, TEXT
from pipeline.profile.llm.openai import Client, OpenAIBackend
from pipeline.profile.llm.refusals import RetryableError, retry_after_s
from pipeline.profile.llm.requests import LENGTH, MESSAGES, REQUEST, SEED
from tests.scripted_llm import ReceivedRequest, Reply, ScriptedServer, scripted_server

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
        client = Client(OpenAIBackend(config, schema), lambda batch: batch)  # type: ignore[arg-type]
        try:
            return [row async for table in client(batch(count)) for row in table.to_pylist()]
        finally:
            await client.close()

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


def test_requests_that_are_all_refused_alike_end_the_stage_and_single_ones_do_not() -> None:
    with scripted_server(lambda asked: Reply(status=400)) as server, pytest.raises(
            ConfigError, match="40 requests of 40 were refused: HTTP 400: .*scripted.*engine.send_seed"):
        ask(server, 40)
    with scripted_server(lambda asked: Reply(status=400) if asked.seed else Reply("good")) as server:
        assert [row[TEXT] for row in ask(server, 40)] == ["good"] + [None] * 39
    with scripted_server(lambda asked: Reply(status=400)) as server:
        assert [row[TEXT] for row in ask(server, 7)] == [None] * 7, "too few to judge by"


def test_retry_after_is_obeyed() -> None:
    def script(asked: ReceivedRequest) -> Reply:
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
    with scripted_server(lambda asked: Reply(status=400, message=f"bad key {KEY}")) as server:
        rows = ask(server, api_key_env="MENTOREC_UNIT_KEY")
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in rows[0][ERROR] and "***" in rows[0][ERROR]


def test_a_key_that_is_not_there_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MENTOREC_UNIT_KEY", raising=False)
    with scripted_server() as server, pytest.raises(ConfigError, match="MENTOREC_UNIT_KEY is not set"):
        ask(server, api_key_env="MENTOREC_UNIT_KEY")
    assert not server.asked


MESSAGE = {"role": "assistant", "content": "good"}


def answer(**changes: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
                       "usage": {"prompt_tokens": 3, "completion_tokens": 2}} | changes)


def with_message(**message: Any) -> str:
    return answer(choices=[{"message": {"role": "assistant", **message}, "finish_reason": "stop"}])


@pytest.mark.parametrize(("body", "why"), [
    ("<html>Sign in to the network</html>", "an answer that is no JSON (JSONDecodeError)"),
    ("", "an answer that is no JSON (JSONDecodeError)"), ("[" * 100_000, "an answer that is no JSON (RecursionError)"),
    ("[]", "an answer that is no object"), ("null", "an answer that is no object"), ("{}", "an answer without choices"),
    (answer(choices=None), "an answer without choices"), (answer(choices={}), "an answer without choices"),
    (answer(choices=[None]), "an answer without a message"), (answer(choices=["x"]), "an answer without a message"),
    (answer(choices=[{"text": "good", "finish_reason": "stop"}]), "an answer without a message"),
    (answer(choices=[{"message": None}]), "an answer without a message"),
    (answer(error={"code": 502, "message": "busy"}), 'an error for an answer: {"code": 502, "message": "busy"}')])
def test_an_odd_answer_is_its_requests_fault_alone(body: str, why: str) -> None:
    with scripted_server(lambda asked: Reply(body=body) if asked.seed == 1 else Reply("good")) as server:
        rows = ask(server, 3, retries=1)
    assert [row[TEXT] for row in rows] == ["good", None, "good"]
    assert rows[1][ERROR] == f"{why} after 2 attempts" and len(server.asked) == 4


@pytest.mark.parametrize(("body", "text", "finish", "tokens"), [
    (with_message(content="half \ud83d of one"), "half \ufffd of one", "stop", (3, 2)),
    (with_message(content="whole \U0001f600"), "whole \U0001f600", "stop", (3, 2)),
    (with_message(content=[{"type": "text", "text": "in "}, {"type": "image_url"}, "parts"]), "in parts", "stop",
     (3, 2)),
    (with_message(content=None, tool_calls=[]), "", "stop", (3, 2)), (with_message(content=7), "", "stop", (3, 2)),
    (with_message(content=None, refusal="I cannot."), "I cannot.", "stop", (3, 2)),
    (with_message(content="good", reasoning_content="hm"), "<think>\nhm\n</think>\ngood", "stop", (3, 2)),
    (with_message(content=None, reasoning="hm"), "<think>\nhm\n</think>\n", "stop", (3, 2)),
    (answer(usage=None), "good", "stop", (7, 0)), (answer(usage=[]), "good", "stop", (7, 0)),
    (answer(usage="many"), "good", "stop", (7, 0)),
    (answer(usage={"prompt_tokens": "12", "completion_tokens": 3.5}), "good", "stop", (12, 3)),
    (answer(usage={"prompt_tokens": -1, "completion_tokens": 10**30}), "good", "stop", (7, 0)),
    (answer(usage={"prompt_tokens": float("nan"), "completion_tokens": {}}), "good", "stop", (7, 0)),
    (answer(choices=[{"message": MESSAGE, "finish_reason": 0}]), "good", None, (3, 2)),
    (answer(choices=[{"message": MESSAGE}, None]), "good", None, (3, 2)),
    ("\ufeff" + answer(), "good", "stop", (3, 2))])
def test_what_can_be_read_of_an_answer_is_kept(body: str, text: str, finish: str | None, tokens: tuple[int, int]
                                               ) -> None:
    with scripted_server(lambda asked: Reply(body=body)) as server:
        row = ask(server)[0]
    assert (row[TEXT], row[FINISH], row[PROMPT_TOKENS], row[OUTPUT_TOKENS], row[ERROR]) == (text, finish, *tokens, None)
    assert len(server.asked) == 1


@pytest.mark.parametrize(("status", "words", "remedy"), [
    (401, "no such key", "engine.execution.api_key_env"), (403, "not yours", "what it may use"),
    (402, "Insufficient Balance", "fill it up"), (404, "model not found", "engine.base_url"),
    (405, "Method Not Allowed", "engine.base_url"), (422, "extra fields not permitted", "engine.send_seed"),
    (429, '{"code": "insufficient_quota"}', "fill it up"),
    (200, '{"code": "insufficient_quota"}', "fill it up")])
def test_what_no_request_gets_past_ends_the_stage_with_the_servers_words(status: int, words: str, remedy: str) -> None:
    body = f'{{"error": {words}}}' if status == 200 else words
    with scripted_server(lambda asked: Reply(status=status, body=body)) as server, \
            pytest.raises((ConfigError, ResourceError)) as raised:
        ask(server)
    said = str(raised.value)
    assert words in said and remedy in said and "what was answered is kept" in said
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [403, 422])
def test_a_server_that_has_answered_refuses_one_request_and_not_the_stage(status: int) -> None:
    """Moderation, or a limit of its own: 403 is what some give for a flagged prompt."""
    def script(asked: ReceivedRequest) -> Reply:
        return Reply(status=status, body="flagged", wait_s=0.5) if asked.seed == 1 else Reply("good")

    with scripted_server(script) as server:
        rows = ask(server, 3)
    assert [row[TEXT] for row in rows] == ["good", None, "good"] and rows[1][ERROR] == f"HTTP {status}: flagged"
    assert len(server.asked) == 3


def test_a_host_that_takes_no_connection_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "_CONNECT_S", 0.3)
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # fill the queue; what comes after is left without a word
            knock = waiting.enter_context(socket.socket())
            knock.setblocking(False)
            knock.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        with pytest.raises(ResourceError, match="does not answer .*start the server"):
            ask(SimpleNamespace(url=url), retries=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["http://127.0.0.1:80000/v1", "http://h:x/v1", "http://h:0/v1", "h/v1", "ftp://h/v1"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="takes a URL such as"):
        OpenAIEngine(base_url=url, model="m", tokenizer="/t")


def test_a_server_that_sends_on_is_told_with_the_address() -> None:
    moved = Reply(status=301, body="", headers={"Location": "https://other/v1"})
    with scripted_server(lambda asked: moved) as server, pytest.raises(ConfigError, match="to https://other/v1; set"):
        ask(server)


def test_what_is_answered_soon_after_the_end_is_saved_in_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "_LAST_ANSWERS_S", 5.0)
    saved: list[pa.Table] = []
    batches = [batch(4), batch(12).slice(4), batch(13).slice(12)]

    async def run(server: ScriptedServer) -> list[pa.Table | BaseException]:
        config = OpenAIEngine(base_url=server.url, model="m", tokenizer="/t")
        client = Client(OpenAIBackend(config, None), saved.append)  # type: ignore[arg-type]
        try:
            return await asyncio.gather(*(client.saved(table) for table in batches), return_exceptions=True)
        finally:
            await client.close()

    def script(asked: ReceivedRequest) -> Reply:
        if asked.seed == 3:
            return Reply(status=402, wait_s=0.2)
        odd = {0: Reply("good"), 2: Reply(wait_s=60), 5: Reply(status=503, wait_s=1.0)}
        return odd.get(asked.seed or 0, Reply("good", wait_s=1.0))

    with scripted_server(script) as server:
        ends = asyncio.run(run(server))
    assert all(isinstance(end, ResourceError) and "HTTP 402" in str(end) for end in ends)
    good = sorted(int(row[REQUEST], 16) for table in saved for row in table.to_pylist() if row[TEXT] == "good")
    assert good == [0, 1, 4, 6, 7, 8, 9, 10, 11, 12], "all but what is refused, hangs, or would have to be asked again"
    assert len(server.asked) == 13


def test_waits_are_those_asked_for_else_doubled_and_never_the_same() -> None:
    config = OpenAIEngine(base_url="http://h/v1", model="m", tokenizer="/t", execution={"backoff_s": 2})
    client = Client(OpenAIBackend(config, None), lambda batch: batch)  # type: ignore[arg-type]

    def waits(attempt: int, asked_s: float | None) -> list[float]:
        state = RetryCallState(AsyncRetrying(), None, (), {})
        state.attempt_number = attempt
        state.set_exception((RetryableError, RetryableError("x", asked_s), None))
        return [client._wait_s(state) for _ in range(20)]

    for attempt, asked_s, least in ((1, None, 2), (2, None, 4), (4, None, 16), (50, None, 60), (1, 7.5, 7.5),
                                    (3, 0.0, 0), (1, 300.0, 300), (1, 9999.0, 900)):
        found = waits(attempt, asked_s)
        assert all(least <= wait <= least + 2 for wait in found) and len(set(found)) > 1


def test_retry_after_in_all_its_forms() -> None:
    assert (retry_after_s(None), retry_after_s("2"), retry_after_s("0.5"), retry_after_s("-3")) == (None, 2, 0.5, 0)
    assert [retry_after_s(value) for value in ("", "soon", "nan", "inf", "1e999")] == [None] * 5
    soon = datetime.now(UTC) + timedelta(seconds=30)
    assert 25 < (retry_after_s(format_datetime(soon, usegmt=True)) or 0) <= 30
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_a_key_in_the_config_is_refused() -> None:
    with pytest.raises(ValueError, match="never the key itself"):
        OpenAIEngine(base_url="http://h/v1", model="m", tokenizer="/t", execution={"api_key_env": "sk-abc"})
    with pytest.raises(ValueError, match="no user, password or query"):
        OpenAIEngine(base_url="http://me:secret@h/v1", model="m", tokenizer="/t")
