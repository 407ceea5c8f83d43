"""gRPC beside HTTP: started where grpcio is installed, and never imported where it is not."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from modelyard_runtime.application import Application
    from modelyard_runtime.http.drain import Drain
    from modelyard_runtime.settings import Settings
    from modelyard_runtime.telemetry.spans import Tracing

__all__ = ["GrpcService", "grpc_installed", "start_grpc"]

_logger = logging.getLogger("modelyard")
_PACKAGES = ("grpc", "grpc_health", "grpc_reflection", "google.protobuf")


class GrpcService(Protocol):
    """A gRPC server that is started."""

    async def run_until_drained(self) -> None:
        """Serve, and return once the last request is answered."""


class _Nothing:
    async def run_until_drained(self) -> None:
        return


async def start_grpc(
    application: Application, drain: Drain, settings: Settings, tracing: Tracing | None
) -> GrpcService:
    """Start to serve gRPC on `settings.grpc_port`; where its packages are missing, say so. Raises LoadFailed."""
    if not grpc_installed():
        _logger.info("no gRPC: install modelyard[runtime] for it")
        return _Nothing()
    # Costs 15 MB and up to a third of a second, so only a process that serves gRPC pays for it.
    from modelyard_runtime.transport.grpc_server import GrpcServer  # noqa: PLC0415

    server = GrpcServer(
        application.plane,
        application.totals,
        application.repository,
        drain,
        tracing,
        host=settings.host,
        port=settings.grpc_port,
        drain_delay=settings.drain_delay,
        max_connection_age=settings.max_connection_age,
        shared=settings.workers > 1,
    )
    await server.start()
    if not settings.grpc_port:
        _logger.info("gRPC on port %d", server.port)
    return server


def grpc_installed() -> bool:
    """Return whether there is what gRPC needs."""
    return all(_installed(package) for package in _PACKAGES)


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
