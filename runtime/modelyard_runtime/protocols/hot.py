"""What the inference routes beside /predict share, as raw ASGI: reading, limits, errors in their form, counting."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson

from modelyard_runtime.errors import RequestError, WrongInput
from modelyard_runtime.observe.metrics import UNRESOLVED, Metrics
from modelyard_runtime.observe.statistics import Stages, Statistics
from modelyard_runtime.protocols.encoding import ENCODINGS, accepted_encoding, compress, content_encoding, inflate
from modelyard_runtime.protocols.v2.repository import Repository
from modelyard_runtime.serving.answers import Answers
from modelyard_runtime.serving.compute import Compute
from modelyard_runtime.serving.limits import (
    ClientGone,
    Receive,
    Scope,
    Send,
    client_timeout,
    discard_body,
    read_body,
)
from modelyard_runtime.serving.registry import Registry, ServedModel

__all__ = ["Answer", "Call", "HotRoute", "Parts"]

_logger = logging.getLogger(__name__)
_JSON = (b"content-type", b"application/json")
_CLOSE = (b"connection", b"close")
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
    repository: Repository
    max_body_bytes: int
    timeout: float
    """Seconds for a whole request."""
    draining: Callable[[], bool]
    """While true, connections are closed after their answer."""
    in_flight: int = 0


@dataclass
class Call:
    """One request that is being answered; `served` is noted once it is known, for the counts."""

    headers: list[tuple[bytes, bytes]]
    body: bytes
    arrived: float
    deadline: float
    """Times of the event loop's clock."""
    stages: Stages
    served: ServedModel | None = None


@dataclass(frozen=True)
class Answer:
    """The body of an answer and its own headers."""

    payload: bytes
    headers: tuple[tuple[bytes, bytes], ...] = (_JSON,)


@dataclass
class _Result:
    status: int
    answer: Answer
    error: RequestError | None = None
    encoding: bytes = b""


class HotRoute:
    """Answers one protocol's POST route with what `handler` returns: never with an exception."""

    def __init__(self, protocol: str, parts: Parts) -> None:
        """`protocol` is the metrics' label."""
        self._protocol = protocol
        self._parts = parts

    async def respond(
        self, handler: Callable[[Call], Awaitable[Answer]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer one request. Errors are `{"error": str}`; what a client sent wrong is a 400."""
        start = time.perf_counter()
        parts = self._parts
        call: Call | None = None
        parts.in_flight += 1
        try:
            try:
                call = await self._read(scope, receive)
                answer = await handler(call)
                result = _Result(200, answer)
                encoding = accepted_encoding(scope["headers"])
                if encoding:
                    result = await _compressed(answer, encoding)
            except RequestError as exc:
                # These protocols know one kind of invalid argument, where the seed API tells two apart.
                status = 400 if isinstance(exc, WrongInput) else exc.status
                result = _Result(status, Answer(orjson.dumps({"error": exc.message})), exc)
            except ClientGone:
                return
            except Exception:
                # A bug of ours: the client learns that it is not at fault, and no more.
                _logger.exception("%s %s failed", scope["method"], scope["path"])
                result = _Result(500, Answer(b'{"error":"the server failed; its log says why"}'))
            self._count(call, result.status, time.perf_counter() - start)
            await self._send(result, receive, send)
        finally:
            parts.in_flight -= 1

    async def _read(self, scope: Scope, receive: Receive) -> Call:
        if scope["method"] != "POST":
            raise _MethodNotAllowed(f"{scope['method']} {scope['path'][:200]} is not allowed; use POST")
        parts = self._parts
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        timeout = client_timeout(headers, parts.timeout)
        arrived = asyncio.get_running_loop().time()
        encoding = content_encoding(headers)
        if encoding in ENCODINGS:
            plain = {"headers": [item for item in headers if item[0] != b"content-encoding"]}
            body = await read_body(plain, receive, limit=parts.max_body_bytes, timeout=timeout)
            body = await inflate(body, encoding, parts.max_body_bytes)
        else:
            body = await read_body(scope, receive, limit=parts.max_body_bytes, timeout=timeout)
        return Call(headers, body, arrived, arrived + timeout, Stages())

    def _count(self, call: Call | None, status: int, seconds: float) -> None:
        served = call.served if call is not None else None
        if served is None or call is None:
            self._parts.metrics.observe(UNRESOLVED, UNRESOLVED, self._protocol, status, seconds)
            return
        self._parts.metrics.observe(served.name, served.version, self._protocol, status, seconds)
        self._parts.statistics.add(served.name, served.version, call.stages, success=status == 200)

    async def _send(self, result: _Result, receive: Receive, send: Send) -> None:
        error, payload = result.error, result.answer.payload
        headers = [*result.answer.headers, (b"content-length", b"%d" % len(payload))]
        if result.encoding:
            headers += ((b"content-encoding", result.encoding), (b"vary", b"accept-encoding"))
        unread = error is not None and error.close
        if unread or self._parts.draining():
            headers.append(_CLOSE)
        if error is not None and error.retry_after is not None:
            headers.append((b"retry-after", b"%d" % error.retry_after))
        if isinstance(error, _MethodNotAllowed):
            headers.append((b"allow", b"POST"))
        await send({"type": "http.response.start", "status": result.status, "headers": headers})
        if unread:
            await send({"type": "http.response.body", "body": payload, "more_body": True})
            await discard_body(receive)
            payload = b""
        await send({"type": "http.response.body", "body": payload})


class _MethodNotAllowed(RequestError):
    status = 405


async def _compressed(answer: Answer, encoding: bytes) -> _Result:
    if len(answer.payload) > _THREAD_BYTES:
        payload, used = await asyncio.to_thread(compress, answer.payload, encoding)
    else:
        payload, used = compress(answer.payload, encoding)
    return _Result(200, Answer(payload, answer.headers), encoding=used)
