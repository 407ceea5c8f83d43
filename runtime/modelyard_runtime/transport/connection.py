"""One HTTP/1.1 connection: uvicorn's protocol, with limits, ids, and a short way for predictions.

A prediction whose request is small is answered where its last byte is read: without a task, without the messages of
ASGI, in one write. What can't be answered at once (a model that computes in a thread) goes on as any other request of
uvicorn's, and so does everything else. Errors that end a connection are JSON here too. Every answer carries the
request's id, and its traceparent where the client sent one.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
from collections.abc import Callable, Coroutine, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from modelyard_runtime.contract import HEADER_REQUEST_ID
from modelyard_runtime.http.response import Header, Reply
from modelyard_runtime.telemetry.log import CURRENT_REQUEST, RequestContext
from modelyard_runtime.transport.heads import DirectRoute, KnownHead, body_after, remembered

__all__ = ["Connection", "ConnectionLimits", "DirectRoute"]

_REQUEST_ID = HEADER_REQUEST_ID.encode()
_TRACEPARENT = b"traceparent"
_WORD = re.compile(rb"[\x21-\x7e]{1,128}")
_TRACE = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_INVALID = "the request is not valid HTTP/1.1; check the client"
_LINGER_SECONDS = 1.0
_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}
_DIRECT_BYTES = 262_144
"""The largest body that is gathered here; a larger one, and one of unknown length, is the application's to read."""
_DIRECT_SECONDS = 0.05
"""How long a body is waited for here; then the application waits, and minds the request's deadline."""


def _request_ids() -> Iterator[bytes]:
    """Make ids that no other process makes: a random beginning and a count."""
    beginning = os.urandom(6).hex().encode()
    return (b"%b-%x" % (beginning, number) for number in itertools.count())


@dataclass(frozen=True)
class ConnectionLimits:
    """What a client may do with its connection."""

    head_seconds: float = 10.0
    """From the first byte of a request to the end of its headers."""
    head_bytes: int = 65536
    """The request line and the headers together."""
    idle_seconds: float = 75.0
    """Without a request; longer than the usual client's and balancer's, so that they close first."""
    max_age: float = 0.0
    """After this many seconds, give or take a tenth, a connection closes with its next answer; 0: never."""
    ids: Iterator[bytes] = field(default_factory=_request_ids)
    """Ids for requests that bring none."""


class Connection(HttpToolsProtocol):
    """HTTP/1.1, within limits, and with every error in the form of the contract."""

    def __init__(
        self,
        *args: Any,
        limits: ConnectionLimits,
        direct: Callable[[str], DirectRoute | None] = lambda path: None,
        **kwargs: Any,
    ) -> None:
        """`direct` gives the route of a path, where POST requests to it may take the short way."""
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._direct = direct
        self._begun: float | None = None
        """When the head that is incomplete now began."""
        self._received = 0
        """Bytes of that head, or of the read that it ended in."""
        self._refusal = (400, _INVALID)
        self._refused = False
        self._echoed: list[Header] = []
        """Headers of the answer that follow from the request's."""
        self._route: DirectRoute | None = None
        """The route of the request that is being read, where it takes the short way."""
        self._body: list[bytes] = []
        self._messages = 0
        """Requests that began in this read."""
        self._last: KnownHead | None = None
        """The request that began last, where it takes the short way, without its text."""
        self._known: KnownHead | None = None
        self._patience: asyncio.TimerHandle | None = None
        opened = self.loop.time()
        self._idle_since = opened
        # A tenth either way, so that connections made in one burst do not all come back in one.
        spread = random.uniform(0.9, 1.1)  # noqa: S311 -- no secret
        self._closes = opened + limits.max_age * spread if limits.max_age else float("inf")

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._refused:
            return
        self._unset_keepalive_if_required()
        known = self._known
        if known is not None and data.startswith(known.before) and self._idle:
            body = body_after(known, data)
            if body is not None and len(body) <= _DIRECT_BYTES:
                # The headers stay those of the first such request; nobody reads the length in them again.
                self._identify(known.request_id, known.traceparent)
                self._answer(known.route, body)
                return
        self._known = None
        self._messages = 0
        self._received += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._take_body()
            self._refuse(*self._refusal)
        except httptools.HttpParserUpgrade as exc:
            self._decline_upgrade(data[exc.args[0] :])
        if self._begun is None:
            if self._messages == 1 and self._last is not None and self._route is None:
                self._known = remembered(self._last, data)
            self._received = 0
            if self._route is not None and self._patience is None:
                self._patience = self.loop.call_later(_DIRECT_SECONDS, self._hand_over)
        elif self._received > self._limits.head_bytes:
            self._refuse(431, self._too_large())

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a connection that has ended."""
        self._take_body()
        super().connection_lost(exc)
        # uvicorn leaves the timer of one that was reset running, which holds it and its last body until it fires.
        self._unset_keepalive_if_required()

    def on_message_begin(self) -> None:
        """Note when the head of a request begins."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._messages += 1
        self._last = None
        self._begun = self.loop.time()

    def on_headers_complete(self) -> None:
        """Refuse a head that is too large; give the request its id, and choose its way."""
        self._begun = None
        if self.parser.should_upgrade():
            return
        headers = self.headers
        if self._received > self._limits.head_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in headers)
            if size > self._limits.head_bytes:
                self._refusal = (431, self._too_large())
                raise httptools.HttpParserError(self._refusal[1])
        own = traceparent = b""
        length = -1
        for name, value in headers:
            if name == b"content-length":
                length = int(value) if len(value) < 10 else _DIRECT_BYTES + 1
            elif name == _REQUEST_ID and not own and _WORD.fullmatch(value):
                own = value
            elif name == _TRACEPARENT and not traceparent and _TRACE.fullmatch(value):
                traceparent = value
        self._identify(own, traceparent)
        if (
            0 <= length <= _DIRECT_BYTES
            and self.parser.get_method() == b"POST"
            and not self.expect_100_continue
            and self._idle
        ):
            self._route = self._direct(self.url.decode("latin-1"))
        if self._route is None:
            self._start(self.app)
        else:
            self._last = KnownHead(b"", b"", length, self._route, own, traceparent)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self._route is not None:
            self._body.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Answer at once, where that is possible."""
        if self.parser.should_upgrade():
            return
        if self._route is None:
            super().on_message_complete()
            return
        self._answer(self._route, self._take_body())

    def shutdown(self) -> None:
        """Close the connection, after the request that is under way."""
        self._hand_over()
        super().shutdown()

    def check(self, now: float) -> None:
        """End a connection that takes too long with a head, or to send a request; called every second."""
        if self.transport is None or self.transport.is_closing():
            return
        if self._route is not None or (self.cycle is not None and not self.cycle.response_complete):
            return  # a body or an answer is on its way
        if self._begun is not None:
            if now - self._begun > self._limits.head_seconds:
                seconds = f"{self._limits.head_seconds:g}"
                self._refuse(408, f"the headers did not arrive within {seconds} s; send them faster")
        elif self.timeout_keep_alive_task is None and now - self._idle_since > self._limits.idle_seconds:
            self.transport.close()

    @property
    def _idle(self) -> bool:
        """Whether an answer could be written at once: none is on its way, and the client reads what it gets."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused

    def _identify(self, own: bytes, traceparent: bytes) -> None:
        """Give the request its id, and the answer the headers that follow from the request's."""
        own = own or next(self._limits.ids)
        self._echoed = [*self.server_state.default_headers, (_REQUEST_ID, own)]
        if traceparent:
            self._echoed.append((_TRACEPARENT, traceparent))
        # What answers the request, here or in a task that begins here, takes this along.
        CURRENT_REQUEST.set(RequestContext(own, traceparent))

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
        self._received = 0
        self.data_received(b"\r\n".join((*lines, b"", b"")) + rest)

    def _start(self, app: Any) -> None:
        """Begin to answer with an application of ASGI."""
        url, headers, expect, mine = self.url, self.headers, self.expect_100_continue, self.app
        super().on_message_begin()  # makes the scope, which the short way has no need of
        self.url, self.headers, self.expect_100_continue, self.app = url, headers, expect, app
        self.scope["headers"] = headers
        super().on_headers_complete()
        self.app = mine
        self.cycle.default_headers = self._echoed
        if self.loop.time() >= self._closes:
            self.cycle.keep_alive = False

    def _answer(self, route: DirectRoute, body: bytes) -> None:
        """Answer a request that is wholly there: at once, or as soon as may be."""
        coroutine = route.begin(self.headers, body)
        try:
            waiting = coroutine.send(None)
        except StopIteration as done:
            self._reply(done.value)
        else:
            self._start(self._rest(_Resumed(coroutine, waiting)))
            super().on_message_complete()

    def _take_body(self) -> bytes:
        """Return what was gathered of the body, and gather no more."""
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._route = None
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        return body

    def _hand_over(self) -> None:
        """Leave a request whose body takes its time to the application."""
        if self._route is None:
            return
        body = self._take_body()
        self._start(self.app)
        if body:
            super().on_body(body)

    def _reply(self, reply: Reply) -> None:
        """Write the answer to a request that took the short way."""
        now = self.loop.time()
        parser = self.parser
        keep_alive = (
            not reply.close and now < self._closes and parser.should_keep_alive() and parser.get_http_version() != "1.0"
        )
        self.transport.write(reply.encode(self._echoed, keep_alive=keep_alive))
        self.server_state.total_requests += 1
        self._idle_since = now
        if not keep_alive:
            self.transport.close()

    def _rest(self, answering: _Resumed) -> Any:
        """Return an application that writes the answer once it is there."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            reply = await answering
            cycle: RequestResponseCycle = receive.__self__  # its own flags, and none of its messages
            if self.flow.write_paused:
                await self.flow.drain()
            if cycle.disconnected:
                return
            cycle.keep_alive = cycle.keep_alive and not reply.close
            cycle.response_started = cycle.response_complete = True
            self.transport.write(reply.encode(cycle.default_headers, keep_alive=cycle.keep_alive))
            cycle.message_event.set()
            if not cycle.keep_alive:
                self.transport.close()
            cycle.on_response()

        return app

    def _refuse(self, status: int, message: str) -> None:
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        body = orjson.dumps({"error": message})
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\nconnection: close\r\n" % (status, _REASONS[status])
        self.transport.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        # Closing with unread bytes would reset the connection, and the client would lose this very answer: what it
        # still sends is read and forgotten until it has seen the end, for a moment at most.
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _too_large(self) -> str:
        return f"the request line and headers are over {self._limits.head_bytes} bytes; send fewer or shorter ones"


class _Resumed:
    """A coroutine whose first step was taken outside a task; awaiting it takes the others."""

    def __init__(self, coroutine: Coroutine[Any, Any, Reply], waiting: Any) -> None:
        self._coroutine = coroutine
        self._waiting = waiting

    def __await__(self) -> Generator[Any, Any, Reply]:
        waiting = self._waiting
        while True:
            try:
                sent = yield waiting
            except GeneratorExit:
                self._coroutine.close()
                raise
            except BaseException as exc:  # a cancellation, for instance
                step: Callable[[Any], Any] = self._coroutine.throw
                argument: Any = exc
            else:
                step, argument = self._coroutine.send, sent
            try:
                waiting = step(argument)
            except StopIteration as done:
                reply: Reply = done.value
                return reply
