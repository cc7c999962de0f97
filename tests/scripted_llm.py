"""An OpenAI-compatible server on loopback whose answers are a function of the prompt: good, bad, late or an error."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

GOOD = ("The person favours floral and citrus scents, above all lavender, rose and mint, in soaps and candles.\n\n"
        "Typical attributes are natural ingredients, small makers and moderate prices, often as gifts.\n\n"
        "The liked things share a fresh, light character and a calm mood in the evening.\n\n"
        "Heavy musk and sweet vanilla are less liked, and rarely chosen again.\n\n"
        "In short: a focused taste for fresh scents, lately with more interest in perfumes.")
GOOD_RECORD = {"tastes": ["floral scents", "citrus"], "attributes": ["natural"], "price_or_era": "moderate prices",
               "dislikes": ["musk"], "behaviour_over_time": "Lately more interest in perfumes than in soaps.",
               "summary": "A focused taste for fresh and floral scents of small makers at moderate prices."}


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as the server saw it."""

    prompt: str
    seed: int | None
    body: dict[str, Any]
    number: int
    """How often this prompt and seed were asked before."""

    @property
    def chance(self) -> float:
        """0…1, fixed by the prompt."""
        return int.from_bytes(hashlib.blake2b(self.prompt.encode(), digest_size=6).digest(), "big") / 2**48


@dataclass(frozen=True)
class Reply:
    """What the server does."""

    text: str | None = GOOD
    status: int = 200
    finish_reason: str = "stop"
    wait_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "scripted"
    """Of an error."""
    body: str | None = None
    """The whole body as it goes out, whatever the text; halves of characters pass."""


BAD = (Reply(""), Reply(None), Reply(" \n\t "), Reply("I'm sorry, but I can't help with that request."),
       Reply("fresh floral scents " * 60, finish_reason="length"), Reply("Fine."),
       Reply("Diese Person mag vor allem blumige und frische Düfte, am liebsten Lavendel und Rose, und kauft sie bei "
             "kleinen Herstellern. Schwere Düfte mag sie nicht, und sie kommt immer wieder zu dem zurück, was sie "
             "schon kennt und schätzt, besonders am Abend und am Wochenende."))
"""Seven ways to be bad."""


def long_answer(asked: ReceivedRequest) -> Reply:
    """A good one that takes two kilobytes of a disk, however it is packed."""
    return Reply(f"{GOOD} Their mark is {hashlib.shake_128(asked.prompt.encode()).hexdigest(2000)}.")


@dataclass
class Faulty:
    """A script: 20 % bad answers in seven ways, which the next seed mends, and 2 % that stay bad; 10 % errors of the
    server, which asking again mends; one prompt, the first, that never gets an answer in time."""

    hung: str = ""

    def __call__(self, asked: ReceivedRequest) -> Reply:
        self.hung = self.hung or asked.prompt
        place = int(asked.chance * 1000)
        if asked.prompt == self.hung:
            return Reply(wait_s=60)
        if asked.number == 0 and place % 10 == 3:
            return Reply(status=429, headers={"Retry-After": "0"}) if place % 20 == 3 else Reply(status=500)
        if place < 200 and asked.seed == 0:
            return BAD[place % 7]
        return BAD[place % 7] if place >= 980 else Reply()


@dataclass
class ScriptedServer:
    """A running server; `asked` holds every request in order, counted when it came in."""

    url: str = ""
    script: Callable[[ReceivedRequest], Reply] = lambda asked: Reply()
    count: Callable[[list[dict[str, str]]], int] = lambda messages: 1
    asked: list[ReceivedRequest] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answered: list[ReceivedRequest] = field(default_factory=list)
    _seen: dict[tuple[str, int | None], int] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.Response:
        body = json.loads(await request.text())
        prompt, seed = body["messages"][-1]["content"], body.get("seed")
        number = self._seen.get((prompt, seed), 0)
        self._seen[prompt, seed] = number + 1
        asked = ReceivedRequest(prompt, seed, body, number)
        self.asked.append(asked)
        self.headers.append(dict(request.headers))
        reply = self.script(asked)
        if reply.wait_s:
            await asyncio.sleep(reply.wait_s)
        if reply.body is not None:
            return web.Response(body=reply.body.encode(errors="surrogatepass"), status=reply.status,
                                headers=reply.headers)
        if reply.status != 200:
            return web.json_response({"error": {"message": reply.message}}, status=reply.status, headers=reply.headers)
        self.answered.append(asked)
        text = reply.text or ""
        return web.json_response({
            "choices": [{"index": 0, "message": {"role": "assistant", "content": reply.text},
                         "finish_reason": reply.finish_reason}],
            "usage": {"prompt_tokens": self.count(body["messages"]), "completion_tokens": len(text.split())}})


@contextmanager
def scripted_server(script: Callable[[ReceivedRequest], Reply] | None = None,
                    count: Callable[[list[dict[str, str]]], int] | None = None) -> Iterator[ScriptedServer]:
    """The server, in a thread of its own."""
    server = ScriptedServer()
    if script is not None:
        server.script = script
    if count is not None:
        server.count = count
    loop, ready, runners = asyncio.new_event_loop(), threading.Event(), []

    async def start() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", server.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        runners.append(runner)
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()

    async def stop() -> None:
        await runners[0].cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}  # answers that nobody waits for any more
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def serve() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
