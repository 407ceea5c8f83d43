"""An ASGI application that is made when somebody asks for it first."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from modelyard_runtime.http.body import Receive, Scope, Send
from modelyard_runtime.http.response import server_failed

__all__ = ["App", "Later"]

_logger = logging.getLogger(__name__)
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An application of ASGI."""


class Later:
    """The application that `make` returns: called in a thread, once, while other requests are answered.

    Where it fails, those who wait are told so, and the next request has it tried again.
    """

    def __init__(self, make: Callable[[], App]) -> None:
        self._make = make
        self._app: App | None = None
        self._making: asyncio.Task[App | None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of ASGI."""
        app = self._app
        if app is None:
            if self._making is None or self._making.done():
                self._making = asyncio.create_task(self._made())
            app = await asyncio.shield(self._making)  # the others wait for it too, whatever becomes of this request
        if app is None:
            await server_failed(close=False).send(send)
        else:
            await app(scope, receive, send)

    async def _made(self) -> App | None:
        try:
            app = self._app = await asyncio.to_thread(self._make)
        except Exception:
            _logger.exception("the application of the rare routes could not be made")
            return None
        if gc.get_freeze_count():
            gc.freeze()  # it stays until the end, as what was loaded before
        return app
