"""uvicorn, with the ends changed: its signals and shutdown are ours, and its connections have limits."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from modelyard_runtime.http.drain import Drain, Phase, refuse_new_connections
from modelyard_runtime.transport.connection import Connection, WholeRequestRoute
from modelyard_runtime.transport.limits import ConnectionLimits
from modelyard_runtime.transport.sockets import BACKLOG

__all__ = ["HttpServer"]

_ACCEPT_SECONDS = 0.2
"""From the last SYN taken until the listener closes: handshakes under way come to their end, and are accepted."""
_IDLE_SECONDS = 1.0
"""How long a connection that nobody was told to close may still bring a request, which is answered and closed."""
_HURRIED_SECONDS = 2.0
"""What requests in flight get when somebody waits at a terminal."""


class HttpServer(uvicorn.Server):
    """Serves an ASGI application on one listener until `drain` says to end."""

    def __init__(
        self,
        app: Any,
        listener: socket.socket,
        drain: Drain,
        *,
        drain_delay: float,
        timeout: float,
        limits: ConnectionLimits | None = None,
        listens_alone: Callable[[], bool] = lambda: True,
        inference_route: Callable[[str], WholeRequestRoute | None] = lambda path: None,
    ) -> None:
        """Durations in seconds, `timeout` that of requests in flight at the end; `inference_route` as in Connection.

        While `listens_alone()`, nobody else accepts connections from the listener, and the end turns new ones away.
        """
        limits = limits or ConnectionLimits()
        config = uvicorn.Config(
            app,
            http=functools.partial(  # type: ignore[arg-type]  # called as the class would be
                Connection, limits=limits, inference_route=inference_route
            ),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=int(limits.idle_seconds),
        )
        super().__init__(config)
        self._listens_alone = listens_alone
        self._listener = listener
        self._drain = drain
        self._drain_delay = drain_delay
        self._timeout = timeout

    async def run_until_drained(self) -> None:
        """Serve, and return once the last connection is closed."""
        await self.serve(sockets=[self._listener])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: the drain has them."""
        yield

    async def main_loop(self) -> None:
        """Keep the Date header fresh until the drain delay is over, and no router has us on its list."""
        ticking = asyncio.create_task(self._tick())
        try:
            await self._drain.until_left(self._drain_delay, self._timeout)
        finally:
            ticking.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listener and then the connections, in an order that loses nothing."""
        if self._listens_alone():
            refuse_new_connections(self._listener)
        await asyncio.sleep(_ACCEPT_SECONDS)
        for server in self.servers:
            server.close()
        for sock in sockets or ():
            sock.close()
        # Every answer since SIGTERM closed its connection. What is left is idle, perhaps with a request on its way.
        await self._until_quiet(Phase.HURRIED, _IDLE_SECONDS)
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if not await self._until_quiet(Phase.HURRIED, self._timeout):
            await self._until_quiet(Phase.FORCED, _HURRIED_SECONDS)
        for task in list(self.server_state.tasks):
            task.cancel()

    async def _tick(self) -> None:
        counter = 0
        while True:
            await self.on_tick(counter)
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.check(now)
            counter += 10  # uvicorn's counter is tenths of seconds
            await asyncio.sleep(1)

    async def _until_quiet(self, phase: Phase, timeout: float) -> bool:
        """Wait until no connection is left, for `phase`, or `timeout` seconds; return whether it is quiet."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while (self.server_state.connections or self.server_state.tasks) and loop.time() < end:
            if await self._drain.wait_for(phase, 0.02):
                break
        return not (self.server_state.connections or self.server_state.tasks)
