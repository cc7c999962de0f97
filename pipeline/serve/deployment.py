"""The service as a Ray Serve application; ``pipeline.serve.deployment:build`` is its import path."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from typing import Any

from ray import serve

from configs.errors import ConfigError, MentorecError
from configs.loader import validate
from pipeline.serve.answers import Answer, Answers, Question
from pipeline.serve.config import ServeConfig
from pipeline.serve.http import build_app
from pipeline.work.memory import keep_freed_memory

_log = logging.getLogger("mentorec.serve")


class Service:
    """A replica: the model, batches of requests, and a look at the model's folder now and then."""

    def __init__(self, config: ServeConfig) -> None:
        keep_freed_memory()
        self._config = config
        self._answers = Answers(config.model, "cuda" if config.num_gpus else "cpu", config.approximate)
        self._token = token(config)
        self._together.set_max_batch_size(config.max_batch)  # type: ignore[attr-defined]
        self._together.set_batch_wait_timeout_s(config.batch_wait_s)  # type: ignore[attr-defined]
        if config.watch_s:
            threading.Thread(target=self._follow, name="watch", daemon=True).start()

    def __serve_build_asgi_app__(self) -> Any:
        """Ray Serve asks for the application once the replica is made."""
        return build_app(self._config, self._answers, self._ask, self._token)

    async def _ask(self, question: Question) -> Answer | MentorecError:
        found: Answer | MentorecError = await self._together(question)
        return found

    @serve.batch
    async def _together(self, questions: list[Question]) -> list[Answer | MentorecError]:
        return await asyncio.to_thread(self._answers.answer, questions)

    def _follow(self) -> None:
        """Take over a newer model; one that cannot be loaded is told and looked at again."""
        while True:
            time.sleep(self._config.watch_s)
            try:
                if self._answers.refresh():
                    _log.info("serving the newer model %s", self._answers.fingerprint)
            except (MentorecError, OSError) as exc:
                _log.warning("the newer model cannot be loaded, the old one goes on answering: %s", exc)


def token(config: ServeConfig) -> str | None:
    """What requests must bring.

    Raises:
        ConfigError: the variable that should hold it is empty or not set.
    """
    if config.token_variable is None:
        return None
    found = os.environ.get(config.token_variable)
    if not found:
        raise ConfigError(f"token_variable: the environment variable {config.token_variable} is empty or not set; set "
                          "it to the token that requests must bring")
    return found


def build(args: dict[str, Any]) -> serve.Application:
    """The application of these settings (``ServeConfig``); host and port are those of Ray Serve's own proxy.

    Raises:
        ConfigError: illegal settings.
    """
    return application(validate(ServeConfig, args, " in the application's args"))


def application(config: ServeConfig) -> serve.Application:
    """The same from settings that are read."""
    resources: dict[str, Any] = {"num_cpus": config.num_cpus, "num_gpus": config.num_gpus}
    deployment = serve.deployment(serve.ingress()(Service)).options(
        name="recommender", num_replicas=config.replicas, ray_actor_options=resources,
        max_ongoing_requests=2 * config.max_batch, max_queued_requests=config.max_queued)
    bound: serve.Application = deployment.bind(config)
    return bound
