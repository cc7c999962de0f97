"""The service's HTTP side: routes, limits, errors; it knows nothing of Ray.

What a client has done wrong is a 4xx with the field's name; nothing of a traceback leaves the process. Annotations are
evaluated here, for FastAPI reads the request's type from one.
"""

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, create_model
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from configs.errors import MentorecError
from pipeline.api.filters import Filter
from pipeline.serve.answers import Answer, Answers, Question
from pipeline.serve.config import ServeConfig

Ask = Callable[[Question], Awaitable[Answer | MentorecError]]
_TEXT_METRICS = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_log = logging.getLogger("mentorec.serve")


class RecommendedItem(BaseModel):
    """One item of a list."""

    item_id: str
    score: float
    title: str | None


class RecommendResponse(BaseModel):
    """The answer to ``POST /recommend``."""

    items: list[RecommendedItem]
    """Best first; fewer than k where the filter leaves no more."""
    by: str
    """`model`, or `popularity` where the model knows no item of the history (scores are then training interactions)."""
    unknown: int
    """Items of the history that the model does not know; they were left out."""
    model: str
    """Fingerprint of the model that answered."""


def request_model(config: ServeConfig) -> type[BaseModel]:
    """The body of ``POST /recommend``, with the service's limits: field errors and the OpenAPI page come from it."""
    raw = Annotated[StrictStr | StrictInt, Field()]
    ids = Annotated[list[raw], Field(max_length=config.max_items)]  # type: ignore[valid-type]
    categories = Annotated[list[StrictStr], Field(max_length=config.max_items)]
    k = Annotated[StrictInt, Field(ge=1, le=config.max_k)]
    days = Annotated[StrictInt | StrictFloat, Field(gt=0, allow_inf_nan=False)]
    return create_model(
        "RecommendRequest", __config__=ConfigDict(extra="forbid"),
        history=(ids, Field(description="Raw item ids, oldest first; [] for a user of whom nothing is known.")),
        k=(k, Field(default=min(10, config.max_k), description="Items wanted.")),
        filter_seen=(StrictBool, Field(default=True, description="Leave out what the history holds.")),
        allow=(ids | None, Field(default=None, description="Recommend these items alone.")),
        deny=(ids, Field(default=[], description="Never recommend these.")),
        categories=(categories | None, Field(default=None, description="Only items of these categories.")),
        new_days=(days | None, Field(default=None, description="Only items first had within so many days before the "
                                     "newest interaction of the model's data.")),
        active_days=(days | None, Field(default=None, description="Only items that somebody had within so many days "
                                        "before the newest interaction of the model's data.")))


def build_app(config: ServeConfig, answers: Answers, ask: Ask, token: str | None) -> FastAPI:
    """The ASGI application.

    Args:
        answers: the model, for ``/ready``.
        ask: answers a question, perhaps with others.
        token: what a request must bring; None: nothing.
    """
    app = FastAPI(title="mentorec", description="Recommendations by a trained sequential recommender.")
    metrics = _Metrics()
    app.add_middleware(_BodyLimit, limit=config.max_body_bytes)
    _add_error_handlers(app)
    body_type: Any = request_model(config)

    def allowed(authorization: Annotated[str | None, Header()] = None) -> None:
        given = (authorization or "").removeprefix("Bearer ").encode("utf-8", "surrogateescape")
        if token is not None and not hmac.compare_digest(given, token.encode()):
            raise HTTPException(401, "a token is needed: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"})

    @app.post("/recommend", response_model=RecommendResponse, dependencies=[Depends(allowed)])
    async def recommend(body: body_type) -> Any:  # type: ignore[valid-type]
        """The best items after a history."""
        given: Any = body
        started = time.perf_counter()
        chosen = Filter(seen=given.filter_seen, allow=given.allow, deny=given.deny, categories=given.categories,
                        new_days=given.new_days, active_days=given.active_days)
        answer = await ask(Question(tuple(map(str, given.history)), given.k, chosen))
        if isinstance(answer, MentorecError):
            raise HTTPException(422, str(answer))
        metrics.answered(answer, time.perf_counter() - started)
        return RecommendResponse(
            items=[RecommendedItem(item_id=raw, score=score, title=title)
                   for raw, score, title in zip(answer.ids, answer.scores, answer.titles, strict=True)],
            by=answer.by, unknown=answer.unknown, model=answer.model)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str | int]:
        """Which model answers."""
        return {"status": "ready", "model": answers.fingerprint, "items": len(answers.recommender.items)}

    @app.get("/metrics", dependencies=[Depends(allowed)])
    async def prometheus() -> Response:
        """Figures of this replica, for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=_TEXT_METRICS)

    return app


class _Metrics:
    """Counts of one replica."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._answers = Counter("mentorec_answers", "Answers, by who gave them.", ["by"], registry=self.registry)
        self._unknown = Counter("mentorec_unknown_items", "Items of histories that the model does not know.",
                                registry=self.registry)
        self._seconds = Histogram("mentorec_answer_seconds", "From a valid request to its answer, waiting counted.",
                                  buckets=_BUCKETS, registry=self.registry)

    def answered(self, answer: Answer, seconds: float) -> None:
        self._answers.labels(answer.by).inc()
        self._unknown.inc(answer.unknown)
        self._seconds.observe(seconds)


def _add_error_handlers(app: FastAPI) -> None:
    async def bad_fields(_: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, RequestValidationError)
        errors = [{"field": ".".join(map(str, error["loc"][1:])) or "body", "message": error["msg"]}
                  for error in exc.errors()[:10]]
        return JSONResponse({"error": "the request is not legal", "fields": errors}, 422)

    async def refused(_: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, StarletteHTTPException)
        return JSONResponse({"error": exc.detail}, exc.status_code, exc.headers)

    async def defect(_: Request, exc: Exception) -> JSONResponse:
        _log.error("a request ended in an error", exc_info=exc)
        return JSONResponse({"error": "internal error"}, 500)

    app.add_exception_handler(RequestValidationError, bad_fields)
    app.add_exception_handler(StarletteHTTPException, refused)
    app.add_exception_handler(Exception, defect)


class _BodyLimit:
    """Refuses a body that is too large, before it is read where its length is told, and while it comes where not."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if told.isdigit() and int(told) > self._limit:
            await self._refuse(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has gone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._limit:
                await self._refuse(scope, receive, send)
                return
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def whole() -> Message:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, whole, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = JSONResponse({"error": f"the body is larger than {self._limit:,} bytes"}, 413,
                              {"Connection": "close"})
        await answer(scope, receive, send)
