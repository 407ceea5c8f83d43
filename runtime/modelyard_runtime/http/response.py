"""A whole response, and its bytes on a connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

if TYPE_CHECKING:
    from modelyard_runtime.http.asgi import Send

__all__ = ["JSON", "Header", "Response", "json_response", "server_failed"]

Header = tuple[bytes, bytes]
"""A header's name, in lower case, and its value."""
JSON: Header = (b"content-type", b"application/json")


class Response(NamedTuple):
    """A response that is complete: its status, its headers but the length, its body."""

    status: int
    headers: tuple[Header, ...]
    payload: bytes
    close: bool = False
    """Whether the connection ends with it."""

    def all_headers(self) -> list[Header]:
        """Return the headers with what the body and the connection ask for."""
        headers = [*self.headers, (b"content-length", b"%d" % len(self.payload))]
        if self.close:
            headers.append((b"connection", b"close"))
        return headers

    async def send(self, send: Send) -> None:
        """Send the response in ASGI's form."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.all_headers()})
        await send({"type": "http.response.body", "body": self.payload})

    def encode(self, further: Iterable[Header], *, keep_alive: bool) -> bytes:
        """Return the response in HTTP/1.1's form, with `further` headers; values are known to hold no line breaks."""
        parts = [STATUS_LINE[self.status]]
        for name, value in further:
            parts += (name, b": ", value, b"\r\n")
        for name, value in self.headers:
            parts += (name, b": ", value, b"\r\n")
        ending = b"\r\n\r\n" if keep_alive else b"\r\nconnection: close\r\n\r\n"
        parts += (b"content-length: %d" % len(self.payload), ending, self.payload)
        return b"".join(parts)


def json_response(status: int, content: object, *further: Header, close: bool = False) -> Response:
    """Return a response of JSON."""
    return Response(status, (JSON, *further), orjson.dumps(content), close)


def server_failed(*, close: bool = False) -> Response:
    """Return the response where a bug of ours is in the way: the client learns that it is not at fault, and no more."""
    return json_response(500, {"error": "the server failed; its log says why"}, close=close)
