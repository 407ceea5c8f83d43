"""One HTTP/1.1 connection: uvicorn's protocol with limits on the head of a request and on the connection's age.

Errors that end a connection are JSON here too. Every answer carries the request's id, and its traceparent where the
client sent one.
"""

from __future__ import annotations

import itertools
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from modelyard_runtime.contract import HEADER_REQUEST_ID
from modelyard_runtime.observe.log import CURRENT_REQUEST, RequestContext
from modelyard_runtime.serving.exchange import Exchange

__all__ = ["Connection", "ConnectionLimits"]

_REQUEST_ID = HEADER_REQUEST_ID.encode()
_TRACEPARENT = b"traceparent"
_WORD = re.compile(rb"[\x21-\x7e]{1,128}")
_TRACE = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_INVALID = "the request is not valid HTTP/1.1; check the client"
_LINGER_SECONDS = 1.0
_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


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

    def __init__(self, *args: Any, limits: ConnectionLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._begun: float | None = None
        """When the head that is incomplete now began."""
        self._received = 0
        """Bytes of that head, or of the read that it ended in."""
        self._refusal = (400, _INVALID)
        self._refused = False
        self._opened = self.loop.time()
        # A tenth either way, so that connections made in one burst do not all come back in one.
        spread = random.uniform(0.9, 1.1)  # noqa: S311 -- no secret
        self._closes = self._opened + limits.max_age * spread if limits.max_age else float("inf")

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._refused:
            return
        self._received += len(data)
        super().data_received(data)
        if self._begun is None:
            self._received = 0
        elif self._received > self._limits.head_bytes:
            self._refuse(431, self._too_large())

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a connection that has ended."""
        super().connection_lost(exc)
        # uvicorn leaves the timer of one that was reset running, which holds it and its last body until it fires.
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    def on_message_begin(self) -> None:
        """Note when the head of a request begins."""
        super().on_message_begin()
        self._begun = self.loop.time()

    def on_headers_complete(self) -> None:
        """Refuse a head that is too large; give the request its id."""
        self._begun = None
        headers = self.headers
        if self._received > self._limits.head_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in headers)
            if size > self._limits.head_bytes:
                self._refusal = (431, self._too_large())
                raise httptools.HttpParserError(self._refusal[1])
        echoed: list[tuple[bytes, bytes]] = []
        own = traceparent = b""
        for name, value in headers:
            if name == _REQUEST_ID and not own and _WORD.fullmatch(value):
                own = value
            elif name == _TRACEPARENT and not traceparent and _TRACE.fullmatch(value):
                traceparent = value
                echoed.append((name, value))
        own = own or next(self._limits.ids)
        echoed.append((_REQUEST_ID, own))
        # The task of the request, which begins in the next line, takes this along.
        CURRENT_REQUEST.set(RequestContext(own, traceparent))
        super().on_headers_complete()
        cycle = self.cycle
        cycle.__class__ = Exchange  # uvicorn names no other place where its own could be replaced; it adds no state
        cycle.default_headers = echoed
        if self.loop.time() >= self._closes:
            cycle.keep_alive = False

    def check(self, now: float) -> None:
        """End a connection that takes too long with a head, or to send its first request; called every second."""
        if self.transport is None or self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            return  # an answer is on its way
        if self._begun is not None:
            if now - self._begun > self._limits.head_seconds:
                seconds = f"{self._limits.head_seconds:g}"
                self._refuse(408, f"the headers did not arrive within {seconds} s; send them faster")
        elif self.cycle is None and now - self._opened > self._limits.idle_seconds:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP, or a head that is refused."""
        self._refuse(*self._refusal)

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
