"""The hot path: POST /predict and /predict/batch as raw ASGI, from bytes to numpy to bytes.

It stands ahead of FastAPI, whose routing and validation cost several times what a small model does (about 46 us a
request for the bare server, 78 with this, 236 and more in a FastAPI route). All of it runs on the event loop's
thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from modelyard_runtime.errors import BadRequest, RequestError, WrongInput
from modelyard_runtime.formats.base import Array, Model, Rows
from modelyard_runtime.observe.metrics import UNRESOLVED, Metrics
from modelyard_runtime.observe.statistics import Look
from modelyard_runtime.protocols.inputs import parse_object, rows_of_features, rows_of_instances
from modelyard_runtime.protocols.large import LARGE_BYTES, parse_large
from modelyard_runtime.serving.answers import Answers
from modelyard_runtime.serving.compute import Compute
from modelyard_runtime.serving.limits import ClientGone, Receive, Scope, Send, client_timeout, discard_body, read_body
from modelyard_runtime.serving.registry import Registry, ServedModel

__all__ = ["BATCH", "ROUTES", "SINGLE", "PredictApp", "Shape", "use_cache"]

_logger = logging.getLogger(__name__)
_PROTOCOL = "seed"
_JSON = (b"content-type", b"application/json")
_CLOSE = (b"connection", b"close")


@dataclass(frozen=True)
class Shape:
    """What distinguishes the two routes: their fields, and one prediction against a list of them."""

    field: str
    answer: str
    to_rows: Callable[[Model, Any], Rows]
    single: bool


SINGLE = Shape("features", "prediction", rows_of_features, single=True)
BATCH = Shape("instances", "predictions", rows_of_instances, single=False)
ROUTES = {"/predict": SINGLE, "/predict/batch": BATCH}


class PredictApp:
    """Answers predictions; `in_flight` counts those it is at."""

    def __init__(
        self,
        *,
        registry: Registry,
        compute: Compute,
        answers: Answers,
        metrics: Metrics,
        max_body_bytes: int,
        timeout: float,
        draining: Callable[[], bool],
    ) -> None:
        """`timeout` in seconds for a whole request; while `draining()`, connections are closed after their answer."""
        self._registry = registry
        self._compute = compute
        self._answers = answers
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._timeout = timeout
        self._draining = draining
        self.in_flight = 0

    async def __call__(self, shape: Shape, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: always with JSON, never with an exception."""
        start = time.perf_counter()
        served: ServedModel | None = None
        error: RequestError | None = None
        status = 200
        self.in_flight += 1
        try:
            try:
                _check_method(scope)
                timeout = client_timeout(scope["headers"], self._timeout)
                deadline = asyncio.get_running_loop().time() + timeout
                body = await read_body(scope, receive, limit=self._max_body_bytes, timeout=timeout)
                large = len(body) > LARGE_BYTES
                request = await asyncio.to_thread(parse_large, body) if large else parse_object(body)
                served = self._registry.resolve(_model_name(request))
                payload = await self._answer(shape, served, request, deadline, start, large=large)
            except RequestError as exc:
                error, status, payload = exc, exc.status, orjson.dumps({"error": exc.message})
            except ClientGone:
                return
            except Exception:
                # A bug of ours: the client learns that it is not at fault, and no more.
                _logger.exception("POST %s failed", scope["path"])
                status, payload = 500, b'{"error":"the server failed; its log says why"}'
            model, version = (served.name, served.version) if served is not None else (UNRESOLVED, UNRESOLVED)
            self._metrics.observe(model, version, _PROTOCOL, status, time.perf_counter() - start)
            await self._respond(status, payload, error, receive, send)
        finally:
            self.in_flight -= 1

    async def _answer(
        self, shape: Shape, served: ServedModel, request: dict[str, Any], deadline: float, start: float, *, large: bool
    ) -> bytes:
        if shape.field not in request:
            got = ", ".join(sorted(str(key)[:40] for key in request)[:8]) or "nothing"
            raise BadRequest(f"the body lacks {shape.field}; it has {got}")
        if large:
            rows = await asyncio.to_thread(shape.to_rows, served.model, request[shape.field])
        else:
            rows = shape.to_rows(served.model, request[shape.field])
        cached = False

        async def compute() -> bytes:
            predictions = await self._compute.predict(served.model, rows, deadline=deadline)
            return await asyncio.to_thread(_encode, predictions, shape) if large else _encode(predictions, shape)

        if use_cache(request):
            look = Look()
            answer = await self._answers.get(served, shape.field, {"": rows}, compute, deadline=deadline, look=look)
            cached = look.cached
        else:
            answer = await compute()
        return orjson.dumps(
            {
                shape.answer: orjson.Fragment(answer),
                "model_name": served.name,
                "model_version": served.version,
                "cached": cached,
                "latency_ms": round((time.perf_counter() - start) * 1000, 3),
            }
        )

    async def _respond(
        self, status: int, payload: bytes, error: RequestError | None, receive: Receive, send: Send
    ) -> None:
        headers = [_JSON, (b"content-length", b"%d" % len(payload))]
        unread = error is not None and error.close
        if unread or self._draining():
            headers.append(_CLOSE)
        if error is not None and error.retry_after is not None:
            headers.append((b"retry-after", b"%d" % error.retry_after))
        if isinstance(error, _MethodNotAllowed):
            headers.append((b"allow", b"POST"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if unread:
            await send({"type": "http.response.body", "body": payload, "more_body": True})
            await discard_body(receive)
            payload = b""
        await send({"type": "http.response.body", "body": payload})


class _MethodNotAllowed(RequestError):
    status = 405


def _check_method(scope: Scope) -> None:
    if scope["method"] != "POST":
        raise _MethodNotAllowed(f"{scope['method']} {scope['path']} is not allowed; use POST")


def _model_name(request: dict[str, Any]) -> str | None:
    name = request.get("model_name")
    if name is not None and type(name) is not str:
        raise WrongInput("model_name needs to be a string")
    return name


def use_cache(request: dict[str, Any]) -> bool:
    """Whether the answer may come from the cache, and go there. Raises WrongInput."""
    use = request.get("use_cache", False)
    if type(use) is not bool:
        raise WrongInput("use_cache needs to be true or false")
    return use


def _encode(predictions: Array, shape: Shape) -> bytes:
    """Encode predictions in JSON's own types; tolist leaves nothing of numpy, whatever the dtype."""
    values = predictions.tolist()
    return orjson.dumps(values[0] if shape.single else values, option=orjson.OPT_SERIALIZE_NUMPY, default=str)
