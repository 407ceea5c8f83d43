"""The one ASGI application: predictions straight to their routes, everything else to FastAPI."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from modelyard_runtime.errors import SettingsError
from modelyard_runtime.group.board import Board
from modelyard_runtime.group.member import Member
from modelyard_runtime.group.peers import Peers
from modelyard_runtime.observe.metrics import Metrics
from modelyard_runtime.observe.statistics import Statistics
from modelyard_runtime.observe.totals import OwnTotals
from modelyard_runtime.protocols.admin import admin_routes
from modelyard_runtime.protocols.health import health_routes
from modelyard_runtime.protocols.hot import HotRoute, Parts
from modelyard_runtime.protocols.metrics import metrics_routes
from modelyard_runtime.protocols.models import ErrorBody, model_routes
from modelyard_runtime.protocols.openapi import PREDICT_PATHS, PREDICT_SCHEMAS
from modelyard_runtime.protocols.openapi_inference import INFER_PATHS, INFER_SCHEMAS
from modelyard_runtime.protocols.predict import predict_routes
from modelyard_runtime.protocols.v1 import find_v1, v1_route, v1_routes
from modelyard_runtime.protocols.v2.envelope_json import JsonEnvelopes
from modelyard_runtime.protocols.v2.infer import find_infer, infer_route
from modelyard_runtime.protocols.v2.repository import Repository
from modelyard_runtime.protocols.v2.routes import v2_routes
from modelyard_runtime.serving.answers import Answers, size_of_answer
from modelyard_runtime.serving.cache import AnswerCache
from modelyard_runtime.serving.catalog import Catalog
from modelyard_runtime.serving.compute import Compute
from modelyard_runtime.serving.drain import Drain
from modelyard_runtime.serving.limits import ClientGone, Message, Receive, Scope, Send
from modelyard_runtime.serving.registry import Registry
from modelyard_runtime.settings import Settings

__all__ = ["RuntimeApp"]

_logger = logging.getLogger(__name__)
_MAX_PATHS = 256
_MAX_PATH = 300
"""How many paths, of how many characters, have their route remembered."""


class RuntimeApp:
    """The ASGI application of one server process, with the parts that its routes share."""

    def __init__(
        self,
        settings: Settings,
        *,
        drain: Drain,
        clock: Callable[[], float] = time.monotonic,
        threads: int | None = None,
        member: Member | None = None,
        board: Board | None = None,
    ) -> None:
        """While `drain` is active, every answer closes its connection; `clock` gives the cache monotonic seconds.

        `member` and `board` are there in a worker of several: its totals are those of all, once they are started.
        """
        self.registry = Registry()
        self.metrics = Metrics()
        statistics = Statistics()
        self.totals: OwnTotals | Peers = OwnTotals(self.metrics, statistics)
        if member is not None and board is not None:
            self.totals = Peers(member, board, self.metrics, statistics)
            self.registry.hold(lambda: board.complete)
        self.compute = Compute(
            max_queue=settings.max_queue,
            threads=threads,
            workers=settings.workers,
            max_rows=settings.batch_max_rows,
            max_delay=settings.batch_max_delay,
            on_batch=self.metrics.batch,
        )
        self.catalog = Catalog(
            self.registry, self.metrics, allow_pickle=settings.allow_pickle, warmup_requests=settings.warmup_requests
        )
        token = _admin_token(settings.admin_token_file)
        cache = AnswerCache(
            ttl=settings.cache_ttl, max_bytes=settings.cache_max_bytes, clock=clock, size=size_of_answer
        )
        answers = Answers(cache, self.registry, self.metrics)
        self._logs_requests = _logger.isEnabledFor(logging.DEBUG)
        self._drain = drain
        self.parts = Parts(
            registry=self.registry,
            compute=self.compute,
            answers=answers,
            metrics=self.metrics,
            statistics=statistics,
            totals=self.totals,
            repository=Repository(self.catalog, token),
            max_body_bytes=settings.max_body_bytes,
            timeout=settings.timeout,
            draining=lambda: drain.active,
        )
        self._routes = predict_routes(self.parts)
        self._named: dict[str, HotRoute | None] = {}
        self._envelopes = JsonEnvelopes(self.parts.floats)
        self.metrics.watch(
            in_flight=lambda: self.in_flight,
            queue_rows=lambda: self.compute.queue_rows,
        )
        admin = admin_routes(self.catalog, self.registry, token)
        self._fastapi = _fastapi(self.parts, drain, admin)

    def close(self) -> None:
        """End the threads once they are idle, and delete what was fetched."""
        self.compute.close()
        self.catalog.close()
        if isinstance(self.totals, Peers):
            self.totals.close()

    @property
    def in_flight(self) -> int:
        """Inference requests that are being answered."""
        return self.parts.in_flight

    def direct(self, path: str) -> HotRoute | None:
        """Return the route that answers POST requests to `path` without ASGI; None for all others."""
        return None if self._logs_requests else self._hot(path)

    def _hot(self, path: str) -> HotRoute | None:
        found = self._routes.get(path)
        if found is not None or not path.startswith(("/v1/", "/v2/")):
            return found
        try:
            return self._named[path]
        except KeyError:
            pass
        if (named := find_infer(path)) is not None:
            found = infer_route(self.parts, self._envelopes, *named)
        elif (named := find_v1(path)) is not None:
            found = v1_route(self.parts, *named)
        if len(path) <= _MAX_PATH:
            if len(self._named) >= _MAX_PATHS:
                self._named.clear()  # clients can make up as many as they like
            self._named[path] = found
        return found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection of ASGI."""
        if self._logs_requests:
            send = _logged(scope, send)
        if scope["type"] == "http":
            route = self._hot(scope["path"])
            if route is not None:
                await route.respond(scope, receive, send)
                return

        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._drain.active:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._fastapi(scope, receive, send_closing)


def _fastapi(parts: Parts, drain: Drain, admin: APIRouter) -> FastAPI:
    registry, totals = parts.registry, parts.totals
    app = FastAPI(
        title="Modelyard runtime",
        description="Predictions, health and metrics of one model server.",
        redirect_slashes=False,
    )
    app.include_router(health_routes(registry, drain))
    app.include_router(metrics_routes(totals))
    app.include_router(model_routes(registry, totals))
    app.include_router(admin)
    app.include_router(v2_routes(registry, drain, totals, parts.repository))
    app.include_router(v1_routes(registry))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    for gone in (ClientGone, ClientDisconnect):
        app.add_exception_handler(gone, _client_gone)
    app.add_exception_handler(Exception, _server_error)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schema["paths"] = {**PREDICT_PATHS, **INFER_PATHS, **schema["paths"]}
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(PREDICT_SCHEMAS, **INFER_SCHEMAS, ErrorBody=ErrorBody.model_json_schema())
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend its schema
    return app


def _logged(scope: Scope, send: Send) -> Send:
    """Return `send` with a line in the log for the answer."""
    start = time.perf_counter()

    async def send_logged(message: Message) -> None:
        await send(message)
        if message["type"] == "http.response.start":
            milliseconds = (time.perf_counter() - start) * 1000
            _logger.debug("%s %s %d in %.3f ms", scope["method"], scope["path"], message["status"], milliseconds)

    return send_logged


def _admin_token(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        token = path.read_bytes().strip()
    except OSError as exc:
        raise SettingsError(f"the admin token's file {path} can't be read: {exc.strerror}") from None
    if not token:
        raise SettingsError(f"the admin token's file {path} is empty; write a long random word into it")
    return token


async def _http_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)  # noqa: S101 -- for the type checker; registered for this class
    path = request.url.path[:200]
    if exc.status_code == 404:
        message = f"there is no {path}; see /docs for what there is"
    elif exc.status_code == 405:
        allowed = (exc.headers or {}).get("Allow", "another method")
        message = f"{request.method} {path} is not allowed; use {allowed}"
    else:
        message = str(exc.detail)
    return JSONResponse({"error": message}, status_code=exc.status_code, headers=exc.headers)


async def _validation_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)  # noqa: S101 -- for the type checker; registered for this class
    problems = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors()[:5])
    return JSONResponse({"error": problems}, status_code=422)


async def _client_gone(request: Request, exc: Exception) -> Response:
    return Response(status_code=499)  # as proxies put it; there is nobody to read it


async def _server_error(request: Request, exc: Exception) -> JSONResponse:
    _logger.error("%s %s failed", request.method, request.url.path, exc_info=exc)
    return JSONResponse({"error": "the server failed; its log says why"}, status_code=500)
