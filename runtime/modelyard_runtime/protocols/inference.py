"""Inference over HTTP, whatever the protocol: from a request's head and body to its response.

A request that arrived in one piece is answered without ASGI, and without a task: `begin` returns a coroutine, whose
first step is all that a cheap model needs (transport/connection.py). Every other way leads through the same handler.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from modelyard_runtime.dataplane.call import Call, Client
from modelyard_runtime.dataplane.dataplane import DataPlane
from modelyard_runtime.errors import ClientGone, RequestError, WrongInput
from modelyard_runtime.http.asgi import CLIENT_EXTENSION, Receive, Scope, Send
from modelyard_runtime.http.body import (
    TIMEOUTS,
    BodyBudget,
    BodyHold,
    check_length,
    client_timeout,
    discard_body,
    read_body,
)
from modelyard_runtime.http.drain import Drain
from modelyard_runtime.http.encoding import accepted_encoding, compress, content_encoding, inflate
from modelyard_runtime.http.response import Header, Response, json_response, server_failed

if TYPE_CHECKING:
    from modelyard_runtime.telemetry.spans import Tracing

__all__ = ["Handler", "InferenceContext", "InferenceRoute"]

_logger = logging.getLogger(__name__)
_BODIES = 4
"""How many bodies of the largest size are held at once; bodies that arrive in one piece are small, and do not count."""
_CONTROLS = TIMEOUTS | {b"content-encoding", b"accept-encoding"}
"""Headers that say how a request is to be read and answered."""

Handler: TypeAlias = Callable[[Call, list[Header], bytes], Awaitable[Response]]
"""Answers a request from its headers and its body. Raises RequestError."""


class InferenceContext:
    """The parts that every inference route over HTTP needs."""

    def __init__(self, plane: DataPlane, drain: Drain) -> None:
        self.plane = plane
        self.drain = drain
        self.bodies = BodyBudget(_BODIES * plane.max_body_bytes)
        self.tracing: Tracing | None = None
        """None: requests are not traced."""


class InferenceRoute:
    """A route that answers POST requests with what `handler` returns: never with an exception."""

    def __init__(
        self,
        protocol: str,
        context: InferenceContext,
        handler: Handler,
        path: str,
        names: Mapping[str, str] | None = None,
        *,
        distinguishes_wrong_input: bool = False,
    ) -> None:
        """`protocol` is the metrics' label; wrong types and shapes are 422 where that is distinguished, else 400.

        `path` has the names of `names` in braces; it goes into traces in this form and with what they stand for.
        """
        self._template = path
        self._path = path.format_map(names or {})
        self._protocol = protocol
        self._context = context
        self._plane = context.plane
        self._drain = context.drain
        self._handler = handler
        self._distinguishes_wrong_input = distinguishes_wrong_input

    def begin(self, headers: list[Header], body: bytes, client: Client) -> Coroutine[Any, Any, Response]:
        """Return the coroutine that answers a whole request; its first step may be taken outside a task."""
        return self._respond(self._admit(headers, "POST", client), headers, body)

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of ASGI."""
        headers: list[Header] = list(scope["headers"])
        client: Client | None = scope.get("extensions", {}).get(CLIENT_EXTENSION)
        call = self._admit(headers, scope["method"], client)
        with BodyHold(self._context.bodies) as hold:
            try:
                body = await self._read(scope, headers, receive, hold)
            except RequestError as exc:
                response, unread = self._failed(exc), exc.close
                self._plane.end(call, response.status)
            except BaseException:
                self._plane.end(call, ClientGone.status)
                raise
            else:
                response, unread = await self._respond(call, headers, body), False
                del body
        await _send(response, receive, send, unread=unread)

    def _admit(self, headers: list[Header], method: str, client: Client | None) -> Call:
        tracing = self._context.tracing
        trace = tracing.begin(headers, method, self._template, self._path) if tracing is not None else None
        return self._plane.begin(self._protocol, client=client, trace=trace)

    async def _read(self, scope: Scope, headers: list[Header], receive: Receive, hold: BodyHold) -> bytes:
        """Return the body as it came."""
        if scope["method"] != "POST":
            raise _MethodNotAllowed(f"{scope['method']} {scope['path'][:200]} is not allowed; use POST")
        content_encoding(headers)
        timeout = client_timeout(headers, self._plane.timeout)
        return await read_body(headers, receive, limit=self._plane.max_body_bytes, timeout=timeout, hold=hold)

    async def _respond(self, call: Call, headers: list[Header], body: bytes) -> Response:
        plane = self._plane
        try:
            controls = [item for item in headers if item[0] in _CONTROLS]
            check_length(len(body), plane.max_body_bytes)
            if controls:
                call.limit(client_timeout(controls, plane.timeout))
                body = await inflate(body, content_encoding(controls), plane.max_body_bytes)
            response = await self._handler(call, headers, body)
            if controls and (wanted := accepted_encoding(controls)):
                response = await compress(response, wanted)
            if self._drain.active:
                response = response._replace(close=True)
        except RequestError as exc:
            response = self._failed(exc)
        except Exception:
            _logger.exception("POST %s failed", self._path[:200])
            response = server_failed(close=self._drain.active)
        except BaseException:  # the task is cancelled
            plane.end(call, ClientGone.status)
            raise
        plane.end(call, response.status)
        return response

    def _failed(self, exc: RequestError) -> Response:
        status = 400 if isinstance(exc, WrongInput) and not self._distinguishes_wrong_input else exc.status
        headers: list[Header] = []
        if exc.retry_after is not None:
            headers.append((b"retry-after", b"%d" % exc.retry_after))
        if isinstance(exc, _MethodNotAllowed):
            headers.append((b"allow", b"POST"))
        return json_response(status, {"error": exc.message}, *headers, close=exc.close or self._drain.active)


class _MethodNotAllowed(RequestError):
    status = 405


async def _send(response: Response, receive: Receive, send: Send, *, unread: bool) -> None:
    """Send a response; where the body is `unread`, read it first to its end, so that the client sees the response."""
    if not unread:
        await response.send(send)
        return
    await send({"type": "http.response.start", "status": response.status, "headers": response.all_headers()})
    await send({"type": "http.response.body", "body": response.payload, "more_body": True})
    await discard_body(receive)
    await send({"type": "http.response.body", "body": b""})
