"""The gRPC server of one process: the inference service, health and reflection on one port, and its drain."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from modelyard_runtime.dataplane.dataplane import DataPlane
from modelyard_runtime.http.drain import Drain, Phase
from modelyard_runtime.protocols.rpc.messages import SERVICE, Messages
from modelyard_runtime.protocols.rpc.service import InferenceService
from modelyard_runtime.protocols.v2.repository import Repository
from modelyard_runtime.telemetry.totals import Totals
from modelyard_runtime.transport.goaway import send_clients_away
from modelyard_runtime.transport.sockets import grpc_taken

if TYPE_CHECKING:
    from modelyard_runtime.telemetry.spans import Tracing

__all__ = ["GrpcServer"]

_PING_MILLISECONDS = 10_000
"""How often a client may ask whether the connection lives; more often, and gRPC would close it."""


class GrpcServer:
    """Serves the data plane over gRPC until `drain` says to end. For the event loop's thread."""

    def __init__(
        self,
        plane: DataPlane,
        totals: Totals,
        repository: Repository,
        drain: Drain,
        tracing: Tracing | None,
        *,
        host: str,
        port: int,
        drain_delay: float,
        max_connection_age: float,
        shared: bool = False,
    ) -> None:
        """Bind `host` and `port` (0: any free one; `shared`: with other workers). Durations in seconds.

        Raises LoadFailed.
        """
        self._plane = plane
        self._drain = drain
        self._drain_delay = drain_delay
        self._server = grpc.aio.server(options=_options(plane, max_connection_age, shared=shared))
        messages = Messages()
        self._health = health.aio.HealthServicer()
        self._updating: set[asyncio.Task[None]] = set()
        self._service = InferenceService(plane, totals, repository, drain, messages, tracing=tracing)
        self._server.add_generic_rpc_handlers((self._service.handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        for module in (health_pb2, reflection_pb2):
            messages.pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool=messages.pool)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError:
            raise grpc_taken(host, port) from None
        plane.registry.on_change(lambda name: self._update_soon())

    async def start(self) -> None:
        """Accept connections; models may still be loading."""
        await self._update()
        await self._server.start()

    async def run_until_drained(self) -> None:
        """Serve, and return once the last request is answered.

        At SIGTERM health says NOT_SERVING, connections and requests are still taken for as long as over HTTP; then
        GOAWAY sends clients elsewhere, and what runs is finished within the timeout.
        """
        await self._drain.wait_for(Phase.DRAINING)
        await self._update()
        await self._drain.until_left(self._drain_delay, self._plane.timeout)
        end = time.monotonic() + self._plane.timeout
        if sys.platform == "linux":
            await send_clients_away(
                self.port, self._service, end=end, wait=lambda seconds: self._drain.wait_for(Phase.FORCED, seconds)
            )
        # gRPC waits for clients as well, those that do not answer its pings: without calls, there is no need.
        grace = max(0.0, end - time.monotonic()) if self._service.calls or sys.platform != "linux" else None
        stopping = asyncio.ensure_future(self._server.stop(grace))
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
        serving = self._plane.registry.ready and not self._drain.active
        status = health_pb2.HealthCheckResponse
        for service in ("", SERVICE):
            await self._health.set(service, status.SERVING if serving else status.NOT_SERVING)


def _options(plane: DataPlane, max_connection_age: float, *, shared: bool) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", plane.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", int(shared)),  # two servers on one port are a mistake, unless they are workers of one
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _PING_MILLISECONDS),
    ]
    if max_connection_age > 0:
        options += [
            ("grpc.max_connection_age_ms", int(max_connection_age * 1000)),
            ("grpc.max_connection_age_grace_ms", int(plane.timeout * 1000)),
        ]
    return options
