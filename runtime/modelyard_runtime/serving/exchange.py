"""One request and its answer: uvicorn's cycle, with an answer of known length written in one piece.

The usual answer is a head and one body. uvicorn writes them apart, two calls of the system, and checks each header
with regular expressions, which together cost as much as a small model.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

__all__ = ["Exchange"]


class Exchange(RequestResponseCycle):
    """A cycle whose answers of known length go out in one write."""

    _head: bytes | None = None
    """What waits to be written with the first part of the body."""

    async def send(self, message: Any) -> None:
        """Take a part of the answer from the application."""
        if message["type"] == "http.response.start":
            head = None if self.response_started else self._encode(message)
            if head is None:
                await super().send(message)
            else:
                self.response_started = True
                self.waiting_for_100_continue = False
                self.chunked_encoding = False
                self._head = head
            return
        head, self._head = self._head, None
        if head is None:
            await super().send(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        body = message.get("body", b"")
        if (
            self.scope["method"] == "HEAD"
            or message.get("more_body", False)
            or len(body) != self.expected_content_length
        ):
            self.transport.write(head)
            await super().send(message)
            return
        self.transport.write(head + body)
        self.expected_content_length = 0
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def _encode(self, message: Any) -> bytes | None:
        """Return the head; None for what uvicorn should see to: no length, or a header that is not plain."""
        length = None
        closes = False
        parts = [STATUS_LINE[message["status"]]]
        for name, value in (*self.default_headers, *message.get("headers", ())):
            if b"\r" in value or b"\n" in value or b"\0" in value or not name.islower():
                return None
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                if value != b"close":
                    return None
                closes = True
            elif name == b"transfer-encoding":
                return None
            parts += (name, b": ", value, b"\r\n")
        if length is None:
            return None
        self.expected_content_length = length
        self.keep_alive = self.keep_alive and not closes
        if not self.keep_alive and not closes:
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)
