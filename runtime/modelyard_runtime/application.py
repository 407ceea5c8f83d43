"""The one ASGI application: predictions, probes and metrics straight to their routes, everything else to FastAPI.

FastAPI with pydantic is a fifth of a small server's memory, and most servers are never asked for what it answers: it
is imported when somebody asks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from modelyard_runtime.contract import METRICS_PATH
from modelyard_runtime.dataplane.answers import Answers, size_of_answer
from modelyard_runtime.dataplane.cache import AnswerCache
from modelyard_runtime.dataplane.catalog import Catalog
from modelyard_runtime.dataplane.executor import Compute
from modelyard_runtime.dataplane.registry import Registry
from modelyard_runtime.http.body import Message, Receive, Scope, Send
from modelyard_runtime.http.drain import Drain
from modelyard_runtime.later import App, Later
from modelyard_runtime.protocols.health import health_routes
from modelyard_runtime.protocols.metrics import metrics_route
from modelyard_runtime.protocols.predict import predict_routes
from modelyard_runtime.protocols.route import HotRoute, Parts
from modelyard_runtime.protocols.token import read_token
from modelyard_runtime.protocols.v1 import find_v1, v1_route
from modelyard_runtime.protocols.v2.infer import Envelopes, find_infer, infer_route
from modelyard_runtime.protocols.v2.repository import Repository
from modelyard_runtime.settings import Settings
from modelyard_runtime.telemetry.metrics import Metrics
from modelyard_runtime.telemetry.statistics import Statistics
from modelyard_runtime.telemetry.totals import OwnTotals
from modelyard_runtime.workers.board import Board
from modelyard_runtime.workers.member import Member
from modelyard_runtime.workers.peers import Peers

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
            self.registry,
            self.metrics,
            allow_pickle=settings.allow_pickle,
            batchable=settings.batchable,
            warmup_requests=settings.warmup_requests,
        )
        token = read_token(settings.admin_token_file)
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
        self._envelopes = Envelopes(self.parts.floats)
        self.metrics.watch(
            in_flight=lambda: self.in_flight,
            queue_rows=lambda: self.compute.queue_rows,
        )
        self._plain = health_routes(self.registry, drain)
        self._plain[METRICS_PATH] = metrics_route(self.totals, self.parts.draining)

        def rare() -> App:
            from modelyard_runtime.rare import rare_routes  # noqa: PLC0415 - imports FastAPI

            return rare_routes(self.parts, self.catalog, token)

        self._rare = Later(rare)

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
            route = self._plain.get(scope["path"]) or self._hot(scope["path"])
            if route is not None:
                await route.respond(scope, receive, send)
                return

        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._drain.active:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._rare(scope, receive, send_closing)


def _logged(scope: Scope, send: Send) -> Send:
    """Return `send` with a line in the log for the answer."""
    start = time.perf_counter()

    async def send_logged(message: Message) -> None:
        await send(message)
        if message["type"] == "http.response.start":
            milliseconds = (time.perf_counter() - start) * 1000
            _logger.debug("%s %s %d in %.3f ms", scope["method"], scope["path"], message["status"], milliseconds)

    return send_logged
