"""Any server that speaks the chat completions protocol: a shared rate, backoff, timeouts.

An odd answer is its request's fault alone. What no request would get past (a refused key, a spent quota, a model
that is not there) ends the stage in the server's own words; what is under way may still be answered for ten seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from configs.errors import ConfigError, ResourceError
from pipeline.profile.llm.completion import Completion, OddAnswerError, read_completion, storable
from pipeline.profile.llm.config import OpenAIEngine
from pipeline.profile.llm.inference import ERROR, AnswerSaver, drained
from pipeline.profile.llm.ledger import ANSWERED_AT, FINISH, OUTPUT_TOKENS, PROMPT_TOKENS, STARTED_AT, TEXT
from pipeline.profile.llm.refusals import KEPT, NoServerError, RefusedError, RetryableError, odd_answer, refusal
from pipeline.profile.llm.requests import LENGTH, MESSAGES, REQUEST, SEED
from pipeline.profile.llm.unanswered import Unanswered
from pipeline.work.nodes import cpus_each

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from ray.data import Dataset
    from tenacity import RetryCallState

_MAX_BACKOFF_S = 60.0
_MAX_ASKED_S = 900.0
"""What a server may ask to wait for; with more it is asked again sooner, and may refuse."""
_ALIKE = 8
"""So many requests of one batch, all refused in the same words before any answer has come: the others would be, too."""
_CONNECT_S = 10.0
_LAST_ANSWERS_S = 10.0
"""So long what is under way may still be answered once the stage is to end: it is paid for."""
_LOOK_S = 0.05
_SHOWN = 200
_ROW = pa.schema([(REQUEST, pa.string()), (TEXT, pa.string()), (FINISH, pa.string()), (PROMPT_TOKENS, pa.int32()),
                  (OUTPUT_TOKENS, pa.int32()), (STARTED_AT, pa.float64()), (ANSWERED_AT, pa.float64()),
                  (ERROR, pa.string())])


@dataclass(frozen=True)
class OpenAIBackend:
    """The ``openai`` engine's way to answers."""

    config: OpenAIEngine
    schema: dict[str, Any] | None
    """JSON schema of the answer."""

    @property
    def engines(self) -> int:
        return self.config.execution.engines

    @property
    def in_flight(self) -> int:
        return self.config.execution.in_flight

    @property
    def start(self) -> str:
        return f"asking {self.config.model} at {self.config.base_url}"

    def answers(self, requests: Unanswered, save: AnswerSaver) -> Iterator[pa.Table]:
        execution = self.config.execution
        if execution.actors:
            return drained(lambda: self._stream(requests, save), [{"CPU": execution.num_cpus}] * execution.actors)
        return self._here(requests, save)

    def _stream(self, requests: Unanswered, save: AnswerSaver) -> Dataset:
        import ray.data

        execution = self.config.execution
        with warnings.catch_warnings():  # how much an actor does at a time has no other parameter yet
            warnings.simplefilter("ignore", DeprecationWarning)
            return requests.dataset(execution.batch_size).map_batches(
                Client, fn_constructor_args=[self, save], batch_format="pyarrow", batch_size=execution.batch_size,
                compute=ray.data.ActorPoolStrategy(size=execution.actors),
                num_cpus=cpus_each(execution.num_cpus, execution.actors),
                max_concurrency=execution.concurrent_batches)

    def _here(self, requests: Unanswered, save: AnswerSaver) -> Iterator[pa.Table]:
        """Ask in this process, as one actor would."""
        tables = requests.tables(self.config.execution.batch_size)
        client = Client(self, save)
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            done: set[asyncio.Task[pa.Table]] = set()
            under_way: set[asyncio.Task[pa.Table]] = set()
            try:
                while True:
                    free = self.config.execution.concurrent_batches - len(under_way)
                    under_way |= {loop.create_task(client.saved(table)) for table in islice(tables, free)}
                    if not under_way:
                        return
                    done, under_way = runner.run(_first(under_way))
                    yield from [task.result() for task in done]
            finally:
                runner.run(_end(done | under_way, client))

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


async def _first(tasks: set[asyncio.Task[pa.Table]]) -> tuple[set[asyncio.Task[pa.Table]], set[asyncio.Task[pa.Table]]]:
    """Those that are done, at least one, and the others."""
    return await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def _end(tasks: set[asyncio.Task[pa.Table]], client: Client) -> None:
    """Cut off what is under way; answers that have come are saved."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()


class Client:
    """Asks and saves, in a Ray actor or in this process; several batches are under way at once."""

    def __init__(self, backend: OpenAIBackend, save: AnswerSaver) -> None:
        self._backend, self._save = backend, save
        self._execution = backend.config.execution
        self._url = f"{backend.config.base_url}/chat/completions"
        name = self._execution.api_key_env
        self._key = os.environ.get(name, "").strip() if name else ""
        self._problem = (f"profile.engine.execution.api_key_env: the environment variable {name} is not set on the "
                         "machine that asks; export it before the cluster is started") if name and not self._key else ""
        rate = self._execution.requests_per_second
        self._spacing_s = 0.0 if rate is None else max(self._execution.actors, 1) / rate
        self._next_slot = 0.0
        self._answered, self._refusals = False, set[str]()
        self._posted: set[asyncio.Task[dict[str, Any]]] = set()
        """Requests that wait for the server."""
        self._end: ConfigError | ResourceError | None = None
        """What ends the stage."""
        self._unsaved = 0
        """Batches whose answers are not saved."""
        self._over = asyncio.Event()
        """Set with it."""
        self._session: ClientSession | None = None

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        yield await self.saved(batch)

    async def close(self) -> None:
        """Give the connections back."""
        if self._session is not None:
            await self._session.close()

    async def saved(self, batch: pa.Table) -> pa.Table:
        """Ask every request of the batch; returns what saving the answers gave.

        Raises:
            ConfigError, ResourceError: no other request would be answered either; what was answered is saved.
        """
        if self._problem:
            raise ConfigError(self._problem)
        if self._end is not None:
            raise self._end
        self._unsaved += 1
        try:
            return await self._saved(batch)
        finally:
            self._unsaved -= 1
            if self._end is not None:  # who raises first takes the process from the others
                await self._others_are_saved()

    async def _saved(self, batch: pa.Table) -> pa.Table:
        rows = batch.select([REQUEST, SEED, LENGTH, MESSAGES]).to_pylist()
        tasks = [asyncio.create_task(self._row(row)) for row in rows]
        try:
            await self._answers(tasks)
        finally:  # also when this batch is cancelled
            done = [task for task in tasks if task.done()]
            for task in tasks:
                task.cancel()
            answers = [task.result() for task in done if task.exception() is None]
            saved = await asyncio.to_thread(self._save, pa.Table.from_pylist(answers, schema=_ROW))
        if self._end is not None:
            raise self._end
        for task in done:
            task.result()  # raises what nobody foresaw
        words = {answer.get(ERROR) for answer in answers}
        if not self._answered and len(answers) >= _ALIKE and len(words) == 1 and words <= self._refusals:
            raise ConfigError(f"profile: {self._url}: {len(answers)} requests of {len(answers)} were refused: "
                              f"{words.pop()}; see engine.send_seed, engine.structured_output, engine.sampling and "
                              f"engine.model; {KEPT}")
        return saved

    async def _answers(self, tasks: list[asyncio.Task[dict[str, Any]]]) -> None:
        """Wait for all; once a request of this client has met what ends the stage, for those under way in any batch."""
        ends = {asyncio.create_task(asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)),
                asyncio.create_task(self._over.wait())}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        if self._over.is_set() and self._posted:
            await asyncio.wait(self._posted.copy(), timeout=_LAST_ANSWERS_S)

    async def _others_are_saved(self) -> None:
        deadline = time.monotonic() + _LAST_ANSWERS_S
        while self._unsaved and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK_S)

    async def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        body = self._backend.body(json.loads(row[MESSAGES]), row[SEED])
        started = time.time()
        try:
            answer = await self._answer(body)
        except (RetryableError, RefusedError) as exc:
            words = storable(str(exc))
            if isinstance(exc, RefusedError):
                self._refusals.add(words)
            return {REQUEST: row[REQUEST], ERROR: words}
        self._answered = True
        prompt = row[LENGTH] if answer.prompt_tokens is None else answer.prompt_tokens
        return {REQUEST: row[REQUEST], TEXT: answer.text, FINISH: answer.finish_reason, PROMPT_TOKENS: prompt,
                OUTPUT_TOKENS: answer.output_tokens or 0, STARTED_AT: started, ANSWERED_AT: time.time()}

    async def _answer(self, body: dict[str, Any]) -> Completion:
        """The server's answer, after as many attempts as are allowed.

        Raises:
            RetryableError, RefusedError: there is none.
            ConfigError, ResourceError: no other request would be answered either.
        """
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

        attempts = self._execution.retries + 1
        retrying = AsyncRetrying(stop=stop_after_attempt(attempts), wait=self._wait_s, reraise=True,
                                 retry=retry_if_exception(self._may_retry))
        try:
            return await retrying(self._post, body)
        except NoServerError as exc:
            raise self._ended(ResourceError(f"profile: {self._url} does not answer ({exc}); start the server and run "
                                            f"again, {KEPT}")) from exc
        except RetryableError as exc:
            raise RetryableError(f"{exc} after {retrying.statistics['attempt_number']} attempts") from exc
        except (ConfigError, ResourceError) as exc:
            raise self._ended(exc) from exc.__cause__

    def _ended(self, exc: ConfigError | ResourceError) -> ConfigError | ResourceError:
        self._end = self._end or exc
        self._over.set()
        return exc

    def _may_retry(self, error: BaseException) -> bool:
        return isinstance(error, RetryableError) and not self._over.is_set()

    def _wait_s(self, state: RetryCallState) -> float:
        """What the server asks for, else a doubling time; a random part keeps requests from coming back together."""
        backoff_s = self._execution.backoff_s
        error = state.outcome.exception() if state.outcome else None
        asked_s = error.wait_s if isinstance(error, RetryableError) else None
        own_s = min(backoff_s * 2.0 ** min(state.attempt_number - 1, 32), _MAX_BACKOFF_S)
        wait_s = own_s if asked_s is None else min(asked_s, _MAX_ASKED_S)
        return wait_s + random.uniform(0, min(backoff_s, _MAX_BACKOFF_S))

    async def _post(self, body: dict[str, Any]) -> Completion:
        import aiohttp

        await self._slot()
        if self._end is not None:
            raise self._end
        if self._session is None:
            limit = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(connector=limit, timeout=aiohttp.ClientTimeout(
                total=self._execution.timeout_s, connect=_CONNECT_S))
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        task = cast(asyncio.Task[dict[str, Any]], asyncio.current_task())
        self._posted.add(task)
        try:
            async with self._session.post(self._url, json=body, headers=headers, allow_redirects=False) as response:
                raw = await response.read()
                if response.status != 200:
                    raise refusal(self._url, response.status, self._shown(raw.decode(errors="replace")),
                                  response.headers, self._shown(response.headers.get("Location", "nowhere")),
                                  has_answered=self._answered)
                return read_completion(raw)
        except OddAnswerError as exc:
            raise odd_answer(self._url, self._shown(str(exc))) from exc
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            raise NoServerError(type(exc).__name__) from exc
        except TimeoutError as exc:
            raise RetryableError(f"no answer within {self._execution.timeout_s:g} s") from exc
        except aiohttp.ClientError as exc:
            raise RetryableError(f"a broken answer ({type(exc).__name__})") from exc
        finally:
            self._posted.discard(task)

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
