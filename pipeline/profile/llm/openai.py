"""Any server that speaks the chat completions protocol: a shared rate, backoff, timeouts."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from configs.errors import ConfigError, ResourceError
from pipeline.profile.llm.asking import ERROR, Save
from pipeline.profile.llm.config import OpenAIEngine
from pipeline.profile.llm.ledger import ANSWERED_AT, FINISH, OUTPUT_TOKENS, PROMPT_TOKENS, STARTED_AT, TEXT
from pipeline.profile.llm.requests import LENGTH, MESSAGES, REQUEST, SEED

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from ray.data import Dataset

_AGAIN = frozenset({408, 409, 429})
_REFUSED = {401: "the key is not accepted", 403: "access is denied", 404: "there is no such model or path"}
_MAX_BACKOFF_S = 60.0
_CONNECT_S = 10.0
_SHOWN = 200
_ROW = pa.schema([(REQUEST, pa.string()), (TEXT, pa.string()), (FINISH, pa.string()), (PROMPT_TOKENS, pa.int32()),
                  (OUTPUT_TOKENS, pa.int32()), (STARTED_AT, pa.float64()), (ANSWERED_AT, pa.float64()),
                  (ERROR, pa.string())])


@dataclass(frozen=True)
class OpenAIAsker:
    """The ``openai`` engine's way to answers."""

    config: OpenAIEngine
    schema: dict[str, Any] | None
    """JSON schema of the answer."""

    @property
    def batch_size(self) -> int:
        return self.config.execution.batch_size

    @property
    def in_flight(self) -> int:
        return self.config.execution.in_flight

    def answered(self, requests: Dataset, save: Save) -> Dataset:
        import ray.data

        execution = self.config.execution
        return requests.map_batches(
            Client, fn_constructor_args=[self, save], batch_format="pyarrow", batch_size=execution.batch_size,
            compute=ray.data.ActorPoolStrategy(size=execution.actors), num_cpus=execution.num_cpus,
            max_concurrency=execution.concurrent_batches)

    def body(self, messages: list[dict[str, str]], seed: int) -> dict[str, Any]:
        """The JSON that is posted."""
        sampling = self.config.sampling
        body: dict[str, Any] = {"model": self.config.model, "messages": messages, "max_tokens": sampling.max_tokens,
                                "temperature": sampling.temperature, "top_p": sampling.top_p}
        if self.config.send_seed:
            body["seed"] = seed
        if sampling.ignore_eos:
            body["ignore_eos"] = True
        if self.schema is not None and self.config.structured_output == "json_schema":
            body["response_format"] = {"type": "json_schema", "json_schema": {
                "name": "profile", "strict": True, "schema": self.schema}}
        return body


class _Lost(Exception):
    """An attempt that may be made again."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class _NoServer(_Lost):
    """Nobody listens."""


class _Wrong(Exception):
    """A request that the server will never answer."""


class Client:
    """Asks and saves in a Ray actor; several batches are under way at once."""

    def __init__(self, asker: OpenAIAsker, save: Save) -> None:
        self._asker, self._save = asker, save
        self._execution = asker.config.execution
        self._url = f"{asker.config.base_url}/chat/completions"
        name = self._execution.api_key_env
        self._key = os.environ.get(name, "").strip() if name else ""
        self._problem = (f"profile.engine.execution.api_key_env: the environment variable {name} is not set on the "
                         "machine that asks; export it before the cluster is started") if name and not self._key else ""
        rate = self._execution.requests_per_second
        self._spacing_s = 0.0 if rate is None else self._execution.actors / rate
        self._next_slot = 0.0
        self._session: ClientSession | None = None

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        if self._problem:
            raise ConfigError(self._problem)
        rows = batch.select([REQUEST, SEED, LENGTH, MESSAGES]).to_pylist()
        answers = await asyncio.gather(*(self._row(row) for row in rows))
        yield await asyncio.to_thread(self._save, pa.Table.from_pylist(answers, schema=_ROW))

    async def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        body = self._asker.body(json.loads(row[MESSAGES]), row[SEED])
        started = time.time()
        try:
            answer = await self._answer(body)
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            text = choice["message"].get("content") or ""
            return {REQUEST: row[REQUEST], TEXT: text, FINISH: choice.get("finish_reason"),
                    PROMPT_TOKENS: usage.get("prompt_tokens", row[LENGTH]),
                    OUTPUT_TOKENS: usage.get("completion_tokens", 0), STARTED_AT: started, ANSWERED_AT: time.time()}
        except (_Lost, _Wrong) as exc:
            return {REQUEST: row[REQUEST], ERROR: str(exc)}

    async def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """The server's answer, after as many attempts as are allowed.

        Raises:
            _Lost, _Wrong: there is none.
            ConfigError, ResourceError: no other request would be answered either.
        """
        attempts = self._execution.retries + 1
        for attempt in range(attempts):
            await self._slot()
            try:
                return await self._post(body)
            except _Lost as exc:
                if attempt == attempts - 1:
                    if isinstance(exc, _NoServer):
                        raise ResourceError(f"profile: {self._url} does not answer ({exc}); start the server and run "
                                            "again, what was answered is kept") from exc
                    raise _Lost(f"{exc} after {attempts} attempts") from exc
                await asyncio.sleep(exc.wait_s or min(self._execution.backoff_s * 2**attempt, _MAX_BACKOFF_S))
        raise AssertionError("unreachable")

    async def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        import aiohttp

        if self._session is None:
            limit = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(connector=limit, timeout=aiohttp.ClientTimeout(
                total=self._execution.timeout_s, connect=_CONNECT_S))
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            async with self._session.post(self._url, json=body, headers=headers) as response:
                if response.status in _AGAIN or response.status >= 500:
                    raise _Lost(f"HTTP {response.status}", _retry_after(response.headers.get("Retry-After")))
                if response.status in _REFUSED:
                    raise ConfigError(f"profile: {self._url}: HTTP {response.status}: {_REFUSED[response.status]}; "
                                      "check engine.base_url, engine.model and engine.execution.api_key_env")
                if response.status != 200:
                    raise _Wrong(f"HTTP {response.status}: {self._shown(await response.text())}")
                answer: dict[str, Any] = await response.json(content_type=None)
                if not isinstance(answer, dict) or not answer.get("choices"):
                    raise _Lost("an answer without choices")
                return answer
        except aiohttp.ClientConnectorError as exc:
            raise _NoServer(type(exc).__name__) from exc
        except TimeoutError as exc:
            raise _Lost(f"no answer within {self._execution.timeout_s:g} s") from exc
        except (aiohttp.ClientError, ValueError) as exc:
            raise _Lost(f"a broken answer ({type(exc).__name__})") from exc

    async def _slot(self) -> None:
        """Wait until this actor's share of the rate allows a request."""
        now = time.monotonic()
        slot = max(now, self._next_slot)
        self._next_slot = slot + self._spacing_s
        if slot > now:
            await asyncio.sleep(slot - now)

    def _shown(self, text: str) -> str:
        """A server's words on one line, short, without the key."""
        text = text.replace(self._key, "***") if self._key else text
        return " ".join(text.split())[:_SHOWN]


def _retry_after(value: str | None) -> float | None:
    return min(float(value), _MAX_BACKOFF_S) if value is not None and value.isdigit() else None
