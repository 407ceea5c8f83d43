"""An ASGI application that is made when a request first needs it."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable

from modelyard_runtime.http.asgi import Application, Receive, Scope, Send
from modelyard_runtime.http.response import server_failed

__all__ = ["LazyApplication"]

_logger = logging.getLogger(__name__)


class LazyApplication:
    """The application that `make` returns: called in a thread, once, while other requests are answered.

    Where it fails, those who wait are told so, and the next request has it tried again.
    """

    def __init__(self, make: Callable[[], Application]) -> None:
        self._make = make
        self._app: Application | None = None
        self._making: asyncio.Task[Application | None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of ASGI."""
        app = self._app
        if app is None:
            if self._making is None or self._making.done():
                self._making = asyncio.create_task(self._made())
            app = await asyncio.shield(self._making)  # the others wait for it too, whatever becomes of this request
        if app is None:
            await server_failed().send(send)
        else:
            await app(scope, receive, send)

    async def _made(self) -> Application | None:
        try:
            app = self._app = await asyncio.to_thread(self._make)
        except Exception:
            _logger.exception("the application could not be made")
            return None
        if gc.get_freeze_count():
            gc.freeze()  # it stays until the end, as what was loaded before
        return app
