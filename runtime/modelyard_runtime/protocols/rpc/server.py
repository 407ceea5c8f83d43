"""The gRPC server of one process: the inference service, health and reflection on one port, and its drain."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from modelyard_runtime.errors import LoadFailed
from modelyard_runtime.protocols.hot import Parts
from modelyard_runtime.protocols.rpc.goaway import send_clients_elsewhere
from modelyard_runtime.protocols.rpc.messages import SERVICE, Messages
from modelyard_runtime.protocols.rpc.service import InferenceService
from modelyard_runtime.serving.drain import Drain, Phase

__all__ = ["GrpcServer"]

_PING_MILLISECONDS = 10_000
"""How often a client may ask whether the connection lives; more often, and gRPC would close it."""
_LEAVE_SECONDS = 1.0
"""How long clients may take to read a GOAWAY; those that have calls running keep their connection for longer."""


class GrpcServer:
    """Serves the parts of an application over gRPC until `drain` says to end. For the event loop's thread."""

    def __init__(
        self, parts: Parts, drain: Drain, *, host: str, port: int, drain_delay: float, max_connection_age: float
    ) -> None:
        """Bind `host` and `port` (0: any free one). Durations in seconds. Raises LoadFailed."""
        self._parts = parts
        self._drain = drain
        self._drain_delay = drain_delay
        self._server = grpc.aio.server(options=_options(parts, max_connection_age))
        messages = Messages()
        self._health = health.aio.HealthServicer()
        self._updating: set[asyncio.Task[None]] = set()
        self._server.add_generic_rpc_handlers((InferenceService(parts, messages).handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        for module in (health_pb2, reflection_pb2):
            messages.pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool=messages.pool)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError:
            raise LoadFailed(
                f"can't listen on {address} for gRPC: it is taken, or not ours; "
                "give another port in MODELYARD_GRPC_PORT, 0 for any free one"
            ) from None
        parts.registry.on_change(lambda name: self._update_soon())

    async def start(self) -> None:
        """Accept connections; models may still be loading."""
        await self._update()
        await self._server.start()

    async def run_until_drained(self) -> None:
        """Serve, and return once the last request is answered.

        At SIGTERM health says NOT_SERVING, connections and requests are still taken for the drain delay; then GOAWAY
        sends clients elsewhere, and what runs is finished within the timeout.
        """
        await self._drain.wait_for(Phase.DRAINING)
        await self._update()
        await self._drain.wait_for(Phase.HURRIED, self._drain_delay)
        await send_clients_elsewhere(self.port, _LEAVE_SECONDS)
        stopping = asyncio.ensure_future(self._server.stop(self._parts.timeout))
        forced = asyncio.ensure_future(self._drain.wait_for(Phase.FORCED))
        both: set[asyncio.Future[Any]] = {stopping, forced}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        if not stopping.done():
            await self._server.stop(None)
        await stopping

    def _update_soon(self) -> None:
        task = asyncio.get_running_loop().create_task(self._update())
        self._updating.add(task)
        task.add_done_callback(self._updating.discard)

    async def _update(self) -> None:
        serving = self._parts.registry.ready and not self._drain.active
        status = health_pb2.HealthCheckResponse
        for service in ("", SERVICE):
            await self._health.set(service, status.SERVING if serving else status.NOT_SERVING)


def _options(parts: Parts, max_connection_age: float) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", parts.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # two servers on one port are a mistake, not a pool
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _PING_MILLISECONDS),
    ]
    if max_connection_age > 0:
        options += [
            ("grpc.max_connection_age_ms", int(max_connection_age * 1000)),
            ("grpc.max_connection_age_grace_ms", int(parts.timeout * 1000)),
        ]
    return options
