"""A gRPC server that ends in one of several ways. It needs grpcio and nothing else, so that any version can be tried.

    server.py NAME MODE

It prints its port, answers every call with NAME after a millisecond, and at SIGTERM ends as MODE says.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from modelyard_runtime.transport.goaway import close_listener, send_clients_away

CALL_SECONDS = 0.001
GRACE_SECONDS = 10.0
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"  # grpc.health.v1.HealthCheckResponse


@dataclass(frozen=True)
class Mode:
    """How a server ends. Durations in seconds."""

    description: str
    drain_delay: float = 0.0
    """From NOT_SERVING to the stop."""
    max_connection_age: float = 0.0
    closes_listener: bool = False
    """Whether the listening socket is exchanged for one on which nothing happens, before the drain delay."""
    goaway: bool = False
    """Whether clients are sent away before the stop, as the runtime does it."""


MODES = {
    "stop": Mode("server.stop(grace) at once"),
    "health": Mode("health NOT_SERVING, 2 s, server.stop(grace)", drain_delay=2),
    "age": Mode("max_connection_age 1 s; health NOT_SERVING, 2 s, server.stop(grace)", 2, 1),
    "closed": Mode("listener closed, 2 s, server.stop(grace)", 2, closes_listener=True),
    "closed-age": Mode("max_connection_age 1 s; listener closed, 2 s, server.stop(grace)", 2, 1, closes_listener=True),
    "closed-age-long": Mode(
        "max_connection_age 10 s; listener closed, 2 s, server.stop(grace)", 2, 10, closes_listener=True
    ),
    "goaway": Mode("send_clients_away, server.stop(grace)", goaway=True),
}


class _Service(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    def __init__(self, name: str) -> None:
        self._name = name.encode()
        self.calls = 0
        self._release = asyncio.Event()
        self._release.set()
        self.stopping = asyncio.Event()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method == "/grpc.health.v1.Health/Watch":
            return grpc.unary_stream_rpc_method_handler(self._watch)
        return grpc.unary_unary_rpc_method_handler(self._call)

    @contextmanager
    def hold_answers(self) -> Iterator[None]:
        """As the runtime's service does."""
        self._release.clear()
        try:
            yield
        finally:
            self._release.set()

    async def _call(self, data: bytes, context: Any) -> bytes:
        self.calls += 1
        try:
            await asyncio.sleep(CALL_SECONDS)
            await self._release.wait()
            return self._name
        finally:
            self.calls -= 1

    async def _watch(self, data: bytes, context: Any) -> Any:
        if not self.stopping.is_set():
            yield _SERVING
            await self.stopping.wait()
        yield _NOT_SERVING


async def serve(name: str, mode: Mode) -> None:
    """Serve until SIGTERM."""
    options = [("grpc.so_reuseport", 0)]
    if mode.max_connection_age:
        options += [("grpc.max_connection_age_ms", int(mode.max_connection_age * 1000))]
        options += [("grpc.max_connection_age_grace_ms", int(GRACE_SECONDS * 1000))]
    server = grpc.aio.server(options=options)
    service = _Service(name)
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    print(port, flush=True)
    await asked.wait()
    service.stopping.set()
    if mode.closes_listener:
        await close_listener(port)
    await asyncio.sleep(mode.drain_delay)
    if mode.goaway:
        end = time.monotonic() + GRACE_SECONDS
        await send_clients_away(port, service, end=end, wait=_wait)
    await server.stop(GRACE_SECONDS)


async def _wait(seconds: float) -> bool:
    await asyncio.sleep(seconds)
    return False


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], MODES[sys.argv[2]]))
