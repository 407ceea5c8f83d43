"""Limits on what a client sends: the size of its body and the time it takes to send it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, MutableMapping
from typing import Any, TypeAlias, TypeVar

from modelyard_runtime.contract import HEADER_TIMEOUT
from modelyard_runtime.errors import BadRequest, BodyTimeout, BodyTooLarge, UnsupportedEncoding

__all__ = ["ClientGone", "Receive", "Scope", "Send", "client_timeout", "discard_body", "read_body"]

_T = TypeVar("_T")
Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Coroutine[Any, Any, Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_TIMEOUTS = frozenset({HEADER_TIMEOUT.encode(), b"x-envoy-expected-rq-timeout-ms"})
"""The client's own, and what Envoy tells of the time that it will wait; both in milliseconds."""
_LINGER_SECONDS = 5.0
_LINGER_IDLE_SECONDS = 0.5


class ClientGone(Exception):
    """The client closed its connection before its request was complete: there is nobody to answer."""


async def read_body(scope: Scope, receive: Receive, *, limit: int, timeout: float) -> bytes:
    """Return the request's body.

    A body that announces more than `limit` bytes is refused before any of it is read, one that does not announce it
    as soon as it is over. Raises BodyTooLarge, BodyTimeout after `timeout` seconds, UnsupportedEncoding, ClientGone.
    """
    _check_headers(scope["headers"], limit)
    # A small body is there already, and a timeout around it would cost more than reading it.
    deadline = asyncio.get_running_loop().time() + timeout
    reading = receive()
    try:
        waiting = reading.send(None)
    except StopIteration as done:
        message: Message = done.value
    else:
        message = await _within(deadline, timeout, _Resumed(reading, waiting))
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message["body"]
        if len(body) > limit:
            raise _too_large(limit)
        return body
    return await _within(deadline, timeout, _read_rest(message, receive, limit))


def client_timeout(headers: Iterable[tuple[bytes, bytes]], timeout: float) -> float:
    """Return the seconds that a request has: `timeout`, or less where the client says so. Raises BadRequest."""
    for name, value in headers:
        if name in _TIMEOUTS:
            if len(value) > 12 or not value.isdigit() or not int(value):
                raise BadRequest(f"{name.decode()} needs to be whole milliseconds above 0, 500 for instance")
            timeout = min(timeout, int(value) / 1000)
    return timeout


class _Resumed:
    """A coroutine whose first step was taken outside a task; awaiting it takes the others."""

    def __init__(self, coroutine: Coroutine[Any, Any, Message], waiting: Any) -> None:
        self._coroutine = coroutine
        self._waiting = waiting

    def __await__(self) -> Generator[Any, Any, Message]:
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
                message: Message = done.value
                return message


async def _within(deadline: float, timeout: float, awaitable: Awaitable[_T]) -> _T:
    try:
        async with asyncio.timeout_at(deadline):
            return await awaitable
    except TimeoutError:
        raise BodyTimeout(f"the body did not arrive within {timeout:g} s; send it faster, or less of it") from None


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


def _check_headers(headers: Iterable[tuple[bytes, bytes]], limit: int) -> None:
    for name, value in headers:
        if name == b"content-length":
            # The HTTP parser has refused anything but digits; thousands of them would be slow to convert.
            if len(value) > 20 or int(value) > limit:
                raise _too_large(limit)
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            shown = value[:40].decode("latin-1")
            raise UnsupportedEncoding(
                f"the body is encoded as {shown!r}, which is not supported here; send it as it is"
            )


async def _read_rest(message: Message, receive: Receive, limit: int) -> bytes:
    chunks = bytearray()
    while True:
        if message["type"] != "http.request":
            raise ClientGone
        chunks += message.get("body", b"")
        if len(chunks) > limit:
            raise _too_large(limit)
        if not message.get("more_body"):
            return bytes(chunks)
        message = await receive()


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit} bytes; send fewer rows a request, or raise maxBodyBytes")
