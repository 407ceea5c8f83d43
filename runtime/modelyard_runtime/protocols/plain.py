"""Routes that answer GET requests from what they know: for probes and scrapes, which come every second.

They are answered without FastAPI, so that a server which nobody asks for more never has it in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from modelyard_runtime.http.body import Receive, Scope, Send
from modelyard_runtime.http.response import Header, Reply, json_reply, server_failed

__all__ = ["PlainRoute", "header"]

_logger = logging.getLogger(__name__)


class PlainRoute:
    """Answers GET requests with what `handler` makes of their headers: never with an exception."""

    def __init__(self, handler: Callable[[list[Header]], Awaitable[Reply]], draining: Callable[[], bool]) -> None:
        """While `draining()`, each answer closes its connection."""
        self._handler = handler
        self._draining = draining

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of ASGI."""
        method, path = scope["method"], scope["path"]
        if method == "GET":
            try:
                reply = await self._handler(scope["headers"])
            except Exception:
                _logger.exception("GET %s failed", path)
                reply = server_failed(close=False)
        else:
            reply = json_reply(405, {"error": f"{method} {path} is not allowed; use GET"}, (b"allow", b"GET"))
        await reply._replace(close=self._draining()).send(send)


def header(headers: list[Header], name: str) -> str | None:
    """Return a header's value, the first of several; None where it is not there. `name` in lower case."""
    wanted = name.encode()
    return next((value.decode("latin-1") for key, value in headers if key == wanted), None)
