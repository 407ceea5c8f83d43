"""The body of a request: read within limits of size and time, or refused and discarded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from modelyard_runtime.contract import HEADER_TIMEOUT
from modelyard_runtime.errors import BadRequest, BodyTimeout, BodyTooLarge, ClientGone, QueueFull
from modelyard_runtime.http.asgi import Receive
from modelyard_runtime.http.response import Header

__all__ = ["TIMEOUTS", "BodyBudget", "BodyHold", "check_length", "client_timeout", "discard_body", "read_body"]

TIMEOUTS = frozenset({HEADER_TIMEOUT.encode(), b"x-envoy-expected-rq-timeout-ms"})
"""The client's own, and what Envoy tells of the time that it will wait; both in milliseconds."""
_LINGER_SECONDS = 5.0
_LINGER_IDLE_SECONDS = 0.5


class BodyBudget:
    """A bound on the bytes of all bodies that are held at once, whoever sends them. For the event loop's thread."""

    def __init__(self, capacity: int) -> None:
        """`capacity` in bytes."""
        self.capacity = capacity
        self.held = 0

    def take(self, size: int) -> None:
        """Hold so many bytes more. Raises QueueFull over the capacity."""
        if self.held + size > self.capacity:
            raise _TooManyBodies(
                f"the server holds {self.held} bytes of other requests' bodies; try again in a moment, or send less"
            )
        self.held += size


class _TooManyBodies(QueueFull):
    close = True


class BodyHold:
    """The part of a budget that one request holds, until it is answered."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._held = 0

    def __enter__(self) -> BodyHold:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.held -= self._held

    def take(self, size: int) -> None:
        """Hold so many bytes more. Raises QueueFull."""
        self._budget.take(size)
        self._held += size


async def read_body(
    headers: Iterable[Header], receive: Receive, *, limit: int, timeout: float, hold: BodyHold | None = None
) -> bytes:
    """Return the request's body, whose bytes `hold` holds from now on.

    A body that announces more than `limit` bytes is refused before any of it is read, one that does not announce it
    as soon as it is over. Raises BodyTooLarge, BodyTimeout after `timeout` seconds, ClientGone, QueueFull.
    """
    for name, value in headers:
        # The HTTP parser has refused anything but digits; thousands of them would be slow to convert.
        if name == b"content-length" and (len(value) > 20 or int(value) > limit):
            raise _too_large(limit)
    try:
        async with asyncio.timeout(timeout):
            return await _read(receive, limit, hold)
    except TimeoutError:
        raise BodyTimeout(f"the body did not arrive within {timeout:g} s; send it faster, or less of it") from None


def check_length(length: int, limit: int) -> None:
    """Raise BodyTooLarge for a body of more than `limit` bytes."""
    if length > limit:
        raise _too_large(limit)


def client_timeout(headers: Iterable[Header], timeout: float) -> float:
    """Return the seconds that a request has: `timeout`, or less where the client says so. Raises BadRequest."""
    for name, value in headers:
        if name in TIMEOUTS:
            if len(value) > 12 or not value.isdigit() or not int(value):
                raise BadRequest(f"{name.decode()} needs to be whole milliseconds above 0, 500 for instance")
            timeout = min(timeout, int(value) / 1000)
    return timeout


async def discard_body(receive: Receive) -> None:
    """Read and forget what a refused client still sends, for a few seconds.

    Closing a connection with unread bytes resets it, and the client would lose the very answer that says what was
    wrong.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + _LINGER_SECONDS
    try:
        while (left := end - loop.time()) > 0:
            async with asyncio.timeout(min(left, _LINGER_IDLE_SECONDS)):
                message = await receive()
            if message["type"] != "http.request" or not message.get("more_body"):
                return
    except TimeoutError:
        return


async def _read(receive: Receive, limit: int, hold: BodyHold | None) -> bytes:
    chunks = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        chunk = message.get("body", b"")
        if hold is not None:
            hold.take(len(chunk))
        chunks += chunk
        check_length(len(chunks), limit)
        if not message.get("more_body"):
            return bytes(chunks)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit} bytes; send fewer rows a request, or raise maxBodyBytes")
