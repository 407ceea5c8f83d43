"""Limits on what a client sends: the size of its body and the time it takes to send it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from modelyard_runtime.errors import BodyTimeout, BodyTooLarge, UnsupportedEncoding

__all__ = ["ClientGone", "Receive", "Scope", "Send", "discard_body", "read_body"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

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
    try:
        async with asyncio.timeout(timeout):
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                body: bytes = message["body"]
                if len(body) > limit:
                    raise _too_large(limit)
                return body
            return await _read_rest(message, receive, limit)
    except TimeoutError as exc:
        if isinstance(exc, BodyTimeout):
            raise
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
