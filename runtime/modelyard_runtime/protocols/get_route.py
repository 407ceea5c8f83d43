"""Routes that answer GET requests without reading or computing anything: for probes and scrapes, every second.

They are answered without FastAPI, so that a server which nobody asks for more never has it in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from modelyard_runtime.http.asgi import Receive, Scope, Send
from modelyard_runtime.http.drain import Drain
from modelyard_runtime.http.response import Header, Response, json_response, server_failed

__all__ = ["GetRoute", "header"]

_logger = logging.getLogger(__name__)


class GetRoute:
    """Answers GET requests with what `handler` makes of their headers: never with an exception."""

    def __init__(self, handler: Callable[[list[Header]], Awaitable[Response]], drain: Drain) -> None:
        """While `drain` is active, each answer closes its connection."""
        self._handler = handler
        self._drain = drain

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of ASGI."""
        method, path = scope["method"], scope["path"]
        if method == "GET":
            try:
                response = await self._handler(scope["headers"])
            except Exception:
                _logger.exception("GET %s failed", path)
                response = server_failed()
        else:
            response = json_response(405, {"error": f"{method} {path} is not allowed; use GET"}, (b"allow", b"GET"))
        await response._replace(close=self._drain.active).send(send)


def header(headers: list[Header], name: str) -> str | None:
    """Return a header's value, the first of several; None where it is not there. `name` in lower case."""
    wanted = name.encode()
    return next((value.decode("latin-1") for key, value in headers if key == wanted), None)
