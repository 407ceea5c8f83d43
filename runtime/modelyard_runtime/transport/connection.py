"""One HTTP/1.1 connection: uvicorn's protocol, with limits, ids, and a short way for predictions.

llhttp alone decides where a message begins and ends. A prediction whose request is small is answered where its last
byte is read: without a task, without the messages of ASGI, in one write. A request that can't be answered at once (by a
model that computes in a thread) goes on as any other request of uvicorn's, and so does everything else. Responses leave
in the order of their requests, refusals too. Each carries the request's id, and its traceparent where it has one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from modelyard_runtime.contract import HEADER_REQUEST_ID
from modelyard_runtime.dataplane.call import Client
from modelyard_runtime.dataplane.offload import LOOP_BYTES
from modelyard_runtime.http.asgi import CLIENT_EXTENSION
from modelyard_runtime.http.response import Header, Response, json_response
from modelyard_runtime.telemetry.log import CURRENT_REQUEST, RequestContext
from modelyard_runtime.transport.limits import ConnectionLimits
from modelyard_runtime.transport.stepping import Stepped, take_first_step

if TYPE_CHECKING:
    import asyncio

__all__ = ["Connection", "WholeRequestRoute"]

_REQUEST_ID = HEADER_REQUEST_ID.encode()
_TRACEPARENT = b"traceparent"
_WORD = re.compile(rb"[\x21-\x7e]{1,128}")
_TRACE = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_INVALID = "the request is not valid HTTP/1.1; check the client"
_INCOMPLETE = "the request ended before it was complete; check the client"
_LINGER_SECONDS = 1.0
_GATHER_SECONDS = 0.05
"""How long a body is waited for here; then the application waits, and minds the request's deadline."""
_PIECE = 16384
"""Bytes that are parsed before requests that were sent ahead of their turn are looked at: these wait unparsed."""


class WholeRequestRoute(Protocol):
    """A route that makes a whole response of a whole request."""

    def begin(self, headers: list[Header], body: bytes, client: Client) -> Coroutine[Any, Any, Response]:
        """Return the coroutine that answers and never raises; its first step is taken outside a task."""


class Connection(HttpToolsProtocol):
    """HTTP/1.1, within limits, and with every error in the form of the contract."""

    def __init__(
        self,
        *args: Any,
        limits: ConnectionLimits,
        inference_route: Callable[[str], WholeRequestRoute | None] = lambda path: None,
        **kwargs: Any,
    ) -> None:
        """`inference_route` gives the route of a path, where POST requests to it may take the short way."""
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._inference_route = inference_route
        self._client = Client()
        self._head_began: float | None = None
        """When the head that is being read now began."""
        self._head_bytes = 0
        """Bytes of that head, but for those of a piece that holds the end of another message too."""
        self._messages_in_piece = 0
        """Messages that are in the piece that is being parsed, or its beginning."""
        self._between_messages = True
        self._refusal = (400, _INVALID)
        self._refused = b""
        """The response with which the connection ends; nothing more is read then."""
        self._unparsed = b""
        """Bytes that wait for the requests before them to be answered."""
        self._half_closed = False
        self._active: RequestResponseCycle | None = None
        """The request that is being answered by the application, others waiting behind it."""
        self._echoed: list[Header] = []
        """Headers of the response that follow from the request's."""
        self._route: WholeRequestRoute | None = None
        """The route of the request that is being read, where it takes the short way."""
        self._body: list[bytes] = []
        self._gathering: asyncio.TimerHandle | None = None
        opened = self.loop.time()
        self._idle_since = opened
        self._stalled_since: float | None = None
        # A tenth either way, so that connections made in one burst do not all come back in one.
        spread = random.uniform(0.9, 1.1)  # noqa: S311 -- no secret
        self._closes = opened + limits.max_age * spread if limits.max_age else float("inf")

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._refused:
            return
        self._unset_keepalive_if_required()
        if self._unparsed or self.pipeline:
            self._unparsed += data
            self.flow.pause_reading()
        else:
            self._parse(data)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own, where uvicorn returns nothing
        """Answer what the client has asked before it closed its sending side, but for what waits in the queue."""
        self._client.leave()
        self._half_closed = True
        if not self._unparsed:
            self._end_half_closed()
        return not self.transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a connection that has ended."""
        self._client.leave()
        self._take_body()
        self._unparsed = b""
        super().connection_lost(exc)
        # uvicorn leaves the timer of one that was reset running, which holds it and its last body until it fires.
        self._unset_keepalive_if_required()

    def on_message_begin(self) -> None:
        """Note when the head of a request begins."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._head_began = self.loop.time()
        self._head_bytes = 0
        self._messages_in_piece += 1
        self._between_messages = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers, which come after a body, say nothing to this server."""
        if self._head_began is None:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Refuse a head that is too large; give the request its id, and choose its way."""
        self._head_began = None
        if self.parser.should_upgrade():
            return
        headers = self.headers
        if self._head_bytes + 2 * _PIECE > self._limits.head_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in headers)
            if size > self._limits.head_bytes:
                self._refusal = (431, self._too_large())
                raise httptools.HttpParserError(self._refusal[1])
        request_id = traceparent = b""
        length = -1
        for name, value in headers:
            if name == b"content-length":
                length = int(value) if len(value) < 10 else LOOP_BYTES + 1
            elif name == _REQUEST_ID and not request_id and _WORD.fullmatch(value):
                request_id = value
            elif name == _TRACEPARENT and not traceparent and _TRACE.fullmatch(value):
                traceparent = value
        self._identify(request_id, traceparent)
        if (
            0 <= length <= LOOP_BYTES
            and not self.expect_100_continue
            and b"%" not in self.url
            and self._idle
            and self.parser.get_method() == b"POST"
        ):
            self._route = self._inference_route(self.url.decode("latin-1"))
        if self._route is None:
            self._start(self.app)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self._route is not None:
            self._body.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Answer at once, where that is possible."""
        self._between_messages = True
        if self.parser.should_upgrade():
            return
        if self._route is None:
            super().on_message_complete()
            return
        self._answer(self._route, self._take_body())

    def on_response_complete(self) -> None:
        """Go on with what waits behind the response that is written: requests, a refusal, the end."""
        super().on_response_complete()
        self._idle_since = self.loop.time()
        if self._unparsed:
            self.flow.pause_reading()
            # Also where one is being answered: what waits may be the rest of its body.
            if not self.pipeline:
                self.loop.call_soon(self._parse_rest)
            return
        if self._answering or self.transport.is_closing():
            return
        if self._refused:
            self._write_refusal()
        elif self._half_closed:
            self.transport.close()

    def pause_writing(self) -> None:
        """Note that the client leaves its responses unread."""
        self._stalled_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that the client reads again."""
        self._stalled_since = None
        super().resume_writing()

    def shutdown(self) -> None:
        """Close the connection, after the request that is under way."""
        self._hand_over()
        super().shutdown()

    def check(self, now: float) -> None:
        """End a connection whose client takes too long to read, to send a head, or a request; called every second."""
        if self.transport is None:
            return
        if self._stalled_since is not None and now - self._stalled_since > self._limits.stall_seconds:
            self.transport.abort()
            return
        if self.transport.is_closing() or self._refused:
            return
        if self._route is not None or (self.cycle is not None and not self.cycle.response_complete):
            return  # a body or an answer is on its way
        if self._head_began is not None:
            if now - self._head_began > self._limits.head_seconds:
                seconds = f"{self._limits.head_seconds:g}"
                self._refuse(408, f"the headers did not arrive within {seconds} s; send them faster")
        elif self.timeout_keep_alive_task is None and now - self._idle_since > self._limits.idle_seconds:
            self.transport.close()

    @property
    def _idle(self) -> bool:
        """Whether a response could be written at once: none is on its way, and the client reads what it gets."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused

    @property
    def _answering(self) -> bool:
        """Whether the application is at a request, perhaps with others behind it."""
        return self._active is not None and not (self._active.response_complete or self._active.disconnected)

    def _parse(self, data: bytes) -> None:
        """Parse bytes up to the end, or to where requests wait for one that is still answered."""
        if len(data) <= _PIECE:
            self._feed(data)
        else:
            for start in range(0, len(data), _PIECE):
                if self._refused:
                    return
                if self.pipeline:
                    self._unparsed = data[start:]
                    self.flow.pause_reading()
                    return
                self._feed(data[start : start + _PIECE])
        if self._route is not None and self._gathering is None:
            self._gathering = self.loop.call_later(_GATHER_SECONDS, self._hand_over)

    def _parse_rest(self) -> None:
        """Parse the bytes that waited."""
        data, self._unparsed = self._unparsed, b""
        if not data or self._refused or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self._parse(data)
        if self._half_closed and not self._unparsed:
            self._end_half_closed()

    def _end_half_closed(self) -> None:
        """Refuse a request that will never be complete; close the connection where nothing else is to be answered."""
        if not self._between_messages:
            self._take_body()
            self._refuse(400, _INCOMPLETE)
        elif not self._answering and not self._refused:
            self.transport.close()

    def _feed(self, data: bytes) -> None:
        """Give the parser bytes, and mind the size of a head that they do not complete."""
        self._messages_in_piece = 0 if self._between_messages else 1
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            self._decline_upgrade(data[exc.args[0] :])
        except httptools.HttpParserError:
            self._take_body()
            self._refuse(*self._refusal)
        if self._head_began is not None and self._messages_in_piece == 1:
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.head_bytes:
                self._refuse(431, self._too_large())

    def _identify(self, request_id: bytes, traceparent: bytes) -> None:
        """Give the request its id, and the response the headers that follow from the request's."""
        request_id = request_id or next(self._limits.ids)
        self._echoed = [*self.server_state.default_headers, (_REQUEST_ID, request_id)]
        if traceparent:
            self._echoed.append((_TRACEPARENT, traceparent))
        # What answers the request, here or in a task that begins here, takes this along.
        CURRENT_REQUEST.set(RequestContext(request_id, traceparent))

    def _decline_upgrade(self, rest: bytes) -> None:
        """Take a request to change to another protocol, HTTP/2 mostly, as one that does not ask for it.

        The parser leaves its body to that other protocol: it reads the request once more, without the question.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(400, "CONNECT is for proxies, and this is none; send the request itself")
            return
        lines = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % item for item in self.headers if item[0] not in (b"upgrade", b"http2-settings")]
        self.parser = httptools.HttpRequestParser(self)
        self._feed(b"\r\n".join((*lines, b"", b"")) + rest)

    def _start(self, app: Any) -> None:
        """Begin to answer with an application of ASGI."""
        url, headers, expect, own = self.url, self.headers, self.expect_100_continue, self.app
        super().on_message_begin()  # makes the scope, which the short way has no need of
        self.url, self.headers, self.expect_100_continue, self.app = url, headers, expect, app
        self.scope["headers"] = headers
        self.scope["extensions"] = {CLIENT_EXTENSION: self._client}  # type: ignore[dict-item]  # ours
        super().on_headers_complete()
        self.app = own
        self.cycle.default_headers = self._echoed
        if self.loop.time() >= self._closes:
            self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    def _answer(self, route: WholeRequestRoute, body: bytes) -> None:
        """Answer a request that is wholly there: at once, or as soon as may be."""
        response = take_first_step(route.begin(self.headers, body, self._client))
        if isinstance(response, Stepped):
            self._start(self._application_of(response))
            super().on_message_complete()
        else:
            self._write(response)

    def _take_body(self) -> bytes:
        """Return what was gathered of the body, and gather no more."""
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._route = None
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        return body

    def _hand_over(self) -> None:
        """Leave a request whose body takes its time to the application."""
        if self._route is None:
            return
        body = self._take_body()
        self._start(self.app)
        if body:
            super().on_body(body)

    def _write(self, response: Response) -> None:
        """Write the response to a request that took the short way."""
        now = self.loop.time()
        parser = self.parser
        keep_alive = (
            not response.close
            and now < self._closes
            and parser.should_keep_alive()
            and parser.get_http_version() != "1.0"
        )
        self.transport.write(response.encode(self._echoed, keep_alive=keep_alive))
        self.server_state.total_requests += 1
        self._idle_since = now
        if not keep_alive:
            self.transport.close()

    def _application_of(self, answering: Stepped[Response]) -> Any:
        """Return an application that writes the response once it is there."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            response = await answering
            cycle: RequestResponseCycle = receive.__self__  # its own flags, and none of its messages
            if self.flow.write_paused:
                await self.flow.drain()
            if cycle.disconnected:
                return
            cycle.keep_alive = cycle.keep_alive and not response.close
            cycle.response_started = cycle.response_complete = True
            self.transport.write(response.encode(cycle.default_headers, keep_alive=cycle.keep_alive))
            cycle.message_event.set()
            if not cycle.keep_alive:
                self.transport.close()
            cycle.on_response()

        return app

    def _refuse(self, status: int, message: str) -> None:
        """End the connection with an error, after the responses to the requests before it."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = json_response(status, {"error": message}).encode((), keep_alive=False)
        self._unparsed = b""
        broken = self.cycle
        if broken is not None and not broken.response_complete and broken.more_body:
            # The request whose body is no HTTP: nobody else answers it.
            if self.pipeline:
                self.pipeline.popleft()
            else:
                started, broken.disconnected = broken.response_started, True
                broken.message_event.set()
                if started:
                    self.transport.close()
                else:
                    self._write_refusal()
                return
        if not self._answering:
            self._write_refusal()

    def _write_refusal(self) -> None:
        self.transport.write(self._refused)
        if self._half_closed:
            self.transport.close()
            return
        # Closing with unread bytes would reset the connection, and the client would lose this very answer: what it
        # still sends is read and forgotten until it has seen the end, for a moment at most.
        self.flow.resume_reading()
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _too_large(self) -> str:
        return f"the request line and headers are over {self._limits.head_bytes} bytes; send fewer or shorter ones"
