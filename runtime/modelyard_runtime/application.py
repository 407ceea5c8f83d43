"""The application of one server process: its data plane, its routes, and the ASGI application over both.

Predictions, probes and metrics are answered ahead of FastAPI, by the handlers that FastAPI's routes call as well: they
cost a fraction, and FastAPI with pydantic, a fifth of a small server's memory, is imported when a request needs it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from modelyard_runtime.contract import METRICS_PATH
from modelyard_runtime.dataplane.catalog import Catalog
from modelyard_runtime.dataplane.dataplane import DataPlane
from modelyard_runtime.dataplane.executor import Executor
from modelyard_runtime.dataplane.registry import Registry
from modelyard_runtime.dataplane.response_cache import ResponseCache, ResponseStore, size_of_response
from modelyard_runtime.http import asgi
from modelyard_runtime.http.asgi import Message, Receive, Scope, Send
from modelyard_runtime.http.drain import Drain
from modelyard_runtime.http.lazy_application import LazyApplication
from modelyard_runtime.protocols.admin_token import read_token
from modelyard_runtime.protocols.get_route import GetRoute
from modelyard_runtime.protocols.health import health_routes
from modelyard_runtime.protocols.inference import InferenceContext, InferenceRoute
from modelyard_runtime.protocols.json_reader import JsonReader
from modelyard_runtime.protocols.metrics import metrics_route
from modelyard_runtime.protocols.predict import predict_routes
from modelyard_runtime.protocols.v1 import find_v1_model, v1_route
from modelyard_runtime.protocols.v2.infer import find_v2_model, v2_route
from modelyard_runtime.protocols.v2.repository import Repository
from modelyard_runtime.settings import Settings
from modelyard_runtime.telemetry.metrics import Metrics
from modelyard_runtime.telemetry.statistics import Statistics
from modelyard_runtime.telemetry.totals import OwnTotals, Totals

__all__ = ["Application"]

_logger = logging.getLogger(__name__)
_MAX_PATHS = 256
_MAX_PATH = 300
"""How many paths, of how many characters, have their route remembered."""


class Application:
    """The ASGI application of one server process, with the data plane that its routes share."""

    def __init__(
        self,
        settings: Settings,
        *,
        drain: Drain,
        clock: Callable[[], float] = time.monotonic,
        threads: int | None = None,
        totals: Callable[[Metrics, Statistics], Totals] = OwnTotals,
    ) -> None:
        """While `drain` is active, every answer closes its connection; `clock` gives the cache monotonic seconds.

        `totals` makes the numbers of the whole server from those of this process.
        """
        self.registry = Registry()
        self.metrics = Metrics()
        self.statistics = Statistics()
        self.totals = totals(self.metrics, self.statistics)
        self.executor = Executor(
            max_queue=settings.max_queue,
            timeout=settings.timeout,
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
        store = ResponseStore(
            ttl=settings.cache_ttl, max_bytes=settings.cache_max_bytes, clock=clock, size=size_of_response
        )
        self.plane = DataPlane(
            self.registry,
            self.executor,
            ResponseCache(store, self.registry, self.metrics),
            self.metrics,
            self.statistics,
            timeout=settings.timeout,
            max_body_bytes=settings.max_body_bytes,
        )
        self.metrics.watch(
            in_flight=lambda: self.plane.in_flight,
            queue_rows=lambda: self.executor.queue_rows,
            stuck_threads=lambda: self.executor.watchdog.stuck,
        )
        token = read_token(settings.admin_token_file)
        self.repository = Repository(self.catalog, token)
        self.context = InferenceContext(self.plane, drain)
        self._drain = drain
        self._shortcuts = settings.shortcuts
        self._logs_requests = _logger.isEnabledFor(logging.DEBUG)
        self._reader = JsonReader(shortcuts=settings.shortcuts)
        self._inference: dict[str, InferenceRoute] = predict_routes(self.context, self._reader)
        self._of_models: dict[str, InferenceRoute | None] = {}
        self._get: dict[str, GetRoute] = {
            **health_routes(self.plane, drain),
            METRICS_PATH: metrics_route(self.totals, drain),
        }

        def fastapi() -> asgi.Application:
            from modelyard_runtime.protocols.rest.app import create_app  # noqa: PLC0415 - imports FastAPI

            return create_app(
                self._find,
                self.registry,
                self.totals,
                catalog=self.catalog,
                repository=self.repository,
                token=token,
            )

        self._fastapi = LazyApplication(fastapi)

    def close(self) -> None:
        """End the threads once they are idle, and delete what was fetched."""
        self.executor.close()
        self.catalog.close()
        self.totals.close()

    def inference_route(self, path: str) -> InferenceRoute | None:
        """Return the route that may answer a whole POST request to a decoded path ahead of ASGI; None: none may."""
        return self._find_inference(path) if self._shortcuts and not self._logs_requests else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection of ASGI."""
        if self._logs_requests:
            send = _logged(scope, send)
        if self._shortcuts and scope["type"] == "http":
            route = self._find(scope["path"])
            if route is not None:
                await route.respond(scope, receive, send)
                return

        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._drain.active:
                headers = [header for header in message.get("headers", ()) if header[0] != b"connection"]
                message["headers"] = [*headers, (b"connection", b"close")]
            await send(message)

        await self._fastapi(scope, receive, send_closing)

    def _find(self, path: str) -> GetRoute | InferenceRoute | None:
        return self._get.get(path) or self._find_inference(path)

    def _find_inference(self, path: str) -> InferenceRoute | None:
        found = self._inference.get(path)
        if found is not None or not path.startswith(("/v1/", "/v2/")):
            return found
        try:
            return self._of_models[path]
        except KeyError:
            pass
        if (model := find_v2_model(path)) is not None:
            found = v2_route(self.context, self._reader, model)
        elif (model := find_v1_model(path)) is not None:
            found = v1_route(self.context, self._reader, model)
        if len(path) <= _MAX_PATH:
            if len(self._of_models) >= _MAX_PATHS:
                self._of_models.clear()  # clients can make up as many as they like
            self._of_models[path] = found
        return found


def _logged(scope: Scope, send: Send) -> Send:
    """Return `send` with a line in the log for the answer."""
    start = time.perf_counter()

    async def send_logged(message: Message) -> None:
        await send(message)
        if message["type"] == "http.response.start":
            milliseconds = (time.perf_counter() - start) * 1000
            _logger.debug("%s %s %d in %.3f ms", scope["method"], scope["path"], message["status"], milliseconds)

    return send_logged
