"""A whole answer, and its bytes on a connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

__all__ = ["Header", "Reply"]

Header = tuple[bytes, bytes]
"""A header's name, in lower case, and its value."""


class Reply(NamedTuple):
    """An answer that is complete: its status, its headers but the length, its body."""

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

    def encode(self, further: Iterable[Header], *, keep_alive: bool) -> bytes:
        """Return the answer in HTTP/1.1's form, with `further` headers; values are known to hold no line breaks."""
        parts = [STATUS_LINE[self.status]]
        for name, value in further:
            parts += (name, b": ", value, b"\r\n")
        for name, value in self.headers:
            parts += (name, b": ", value, b"\r\n")
        ending = b"\r\n\r\n" if keep_alive else b"\r\nconnection: close\r\n\r\n"
        parts += (b"content-length: %d" % len(self.payload), ending, self.payload)
        return b"".join(parts)
