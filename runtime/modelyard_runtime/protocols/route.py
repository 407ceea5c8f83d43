"""What the inference routes share: limits, errors in their form, counting; from a whole request to a whole answer.

They stand ahead of FastAPI, whose routing and validation cost several times what a small model does. A request that
arrived in one piece is answered without ASGI too, and without a task: `begin` gives a coroutine, whose first step
is all that a cheap model needs (transport/connection.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from modelyard_runtime.dataplane.answers import Answers
from modelyard_runtime.dataplane.executor import Compute
from modelyard_runtime.dataplane.registry import Registry, ServedModel
from modelyard_runtime.errors import RequestError, WrongInput
from modelyard_runtime.http.body import (
    TIMEOUTS,
    ClientGone,
    Receive,
    Scope,
    Send,
    check_length,
    client_timeout,
    discard_body,
    read_body,
)
from modelyard_runtime.http.encoding import accepted_encoding, compress, content_encoding, inflate
from modelyard_runtime.http.response import JSON, Header, Reply, json_reply, server_failed
from modelyard_runtime.protocols.numbers import FloatParser
from modelyard_runtime.protocols.v2.repository import Repository
from modelyard_runtime.telemetry.metrics import UNRESOLVED, Metrics
from modelyard_runtime.telemetry.statistics import Stages, Statistics
from modelyard_runtime.telemetry.totals import Totals

if TYPE_CHECKING:
    from modelyard_runtime.telemetry.spans import Tracing

__all__ = ["Answer", "Call", "Handler", "HotRoute", "Parts"]

_logger = logging.getLogger(__name__)
_NOTABLE = TIMEOUTS | {b"content-encoding", b"accept-encoding"}
"""Headers that are looked at for every request."""
_THREAD_BYTES = 65536
"""Answers of more bytes than this are compressed in a thread: they would hold the event loop too long."""


@dataclass
class Parts:
    """What inference routes share, whatever the protocol; `in_flight` counts the requests that they are at."""

    registry: Registry
    compute: Compute
    answers: Answers
    metrics: Metrics
    statistics: Statistics
    totals: Totals
    repository: Repository
    max_body_bytes: int
    timeout: float
    """Seconds for a whole request."""
    draining: Callable[[], bool]
    """While true, connections are closed after their answer."""
    floats: FloatParser = field(default_factory=FloatParser)
    """For the event loop's thread."""
    in_flight: int = 0
    tracing: Tracing | None = None
    """None: requests are not traced."""


@dataclass(slots=True)
class Call:
    """One request that is being answered; `served` is noted once it is known, for the counts."""

    headers: list[Header]
    body: bytes
    arrived: float
    deadline: float
    """Times of the event loop's clock."""
    stages: Stages
    served: ServedModel | None = None


class Answer(NamedTuple):
    """The body of an answer and its own headers."""

    payload: bytes
    headers: tuple[Header, ...] = (JSON,)


Handler: TypeAlias = Callable[[Call], Awaitable[Answer]]
"""Answers a request of one route. Raises RequestError."""


class HotRoute:
    """Answers POST requests with what `handler` returns: never with an exception."""

    def __init__(
        self,
        protocol: str,
        parts: Parts,
        handler: Handler,
        path: str,
        names: Mapping[str, str] | None = None,
        *,
        tells_wrong: bool = False,
    ) -> None:
        """`protocol` is the metrics' label; where it `tells_wrong`, wrong types and shapes are 422, else 400.

        `path` has the names of `names` in braces; it goes into traces in this form and with what they stand for.
        """
        self._form = path
        self._path = path.format_map(names or {})
        self._protocol = protocol
        self._parts = parts
        self._handler = handler
        self._tells_wrong = tells_wrong

    def begin(self, headers: list[Header], body: bytes) -> Coroutine[Any, Any, Reply]:
        """Return what answers a request that is wholly there; its first step may be taken outside a task."""
        stages = Stages()
        if self._parts.tracing is not None:
            stages.trace = self._parts.tracing.begin(headers)
        return self._answer(headers, body, asyncio.get_running_loop().time(), stages)

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of ASGI."""
        stages = Stages()
        arrived = asyncio.get_running_loop().time()
        headers: list[Header] = list(scope["headers"])
        if self._parts.tracing is not None:
            stages.trace = self._parts.tracing.begin(headers, scope["method"])
        unread = False
        try:
            if scope["method"] != "POST":
                raise _MethodNotAllowed(f"{scope['method']} {scope['path'][:200]} is not allowed; use POST")
            body = await self._read(headers, receive)
        except ClientGone:
            return
        except RequestError as exc:
            unread = exc.close
            reply = self._failed(exc)
            self._count(None, stages, reply.status)
        else:
            reply = await self._answer(headers, body, arrived, stages)
        if unread:
            await send({"type": "http.response.start", "status": reply.status, "headers": reply.all_headers()})
            await send({"type": "http.response.body", "body": reply.payload, "more_body": True})
            await discard_body(receive)
            await send({"type": "http.response.body", "body": b""})
        else:
            await reply.send(send)

    async def _read(self, headers: list[Header], receive: Receive) -> bytes:
        """Return the body as it came."""
        parts = self._parts
        parts.in_flight += 1
        try:
            content_encoding(headers)
            timeout = client_timeout(headers, parts.timeout)
            return await read_body(headers, receive, limit=parts.max_body_bytes, timeout=timeout)
        finally:
            parts.in_flight -= 1

    async def _answer(self, headers: list[Header], body: bytes, arrived: float, stages: Stages) -> Reply:
        parts = self._parts
        call: Call | None = None
        parts.in_flight += 1
        try:
            notable = [item for item in headers if item[0] in _NOTABLE]
            timeout = client_timeout(notable, parts.timeout) if notable else parts.timeout
            check_length(len(body), parts.max_body_bytes)
            call = Call(headers, body, arrived, arrived + timeout, stages)
            if notable and (encoding := content_encoding(notable)):
                call.body = await inflate(body, encoding, parts.max_body_bytes)
            answer = await self._handler(call)
            reply = Reply(200, answer.headers, answer.payload, parts.draining())
            if notable and (wanted := accepted_encoding(notable)):
                reply = await _compressed(reply, wanted)
        except RequestError as exc:
            reply = self._failed(exc)
        except Exception:
            _logger.exception("POST %s failed", self._path[:200])
            reply = server_failed(close=parts.draining())
        finally:
            parts.in_flight -= 1
        self._count(call.served if call is not None else None, stages, reply.status)
        return reply

    def _count(self, served: ServedModel | None, stages: Stages, status: int) -> None:
        parts = self._parts
        seconds = (time.perf_counter_ns() - stages.arrived) / 1e9
        if stages.trace is not None:
            stages.trace.end(served, stages, status, protocol=self._protocol, route=self._form, path=self._path)
        if served is None:
            parts.metrics.observe(UNRESOLVED, UNRESOLVED, self._protocol, status, seconds)
            return
        parts.metrics.observe(served.name, served.version, self._protocol, status, seconds)
        parts.statistics.add(served.name, served.version, stages, success=status == 200)

    def _failed(self, exc: RequestError) -> Reply:
        status = 400 if isinstance(exc, WrongInput) and not self._tells_wrong else exc.status
        headers: list[Header] = []
        if exc.retry_after is not None:
            headers.append((b"retry-after", b"%d" % exc.retry_after))
        if isinstance(exc, _MethodNotAllowed):
            headers.append((b"allow", b"POST"))
        return json_reply(status, {"error": exc.message}, *headers, close=exc.close or self._parts.draining())


class _MethodNotAllowed(RequestError):
    status = 405


async def _compressed(reply: Reply, encoding: bytes) -> Reply:
    if len(reply.payload) > _THREAD_BYTES:
        payload, used = await asyncio.to_thread(compress, reply.payload, encoding)
    else:
        payload, used = compress(reply.payload, encoding)
    vary = (b"vary", b"accept-encoding")
    headers = (*reply.headers, (b"content-encoding", used), vary) if used else (*reply.headers, vary)
    return Reply(reply.status, headers, payload, reply.close)
