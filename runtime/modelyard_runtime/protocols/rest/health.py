"""Health and metrics, declared."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from modelyard_runtime.contract import METRICS_PATH, PATH_LIVE, PATH_READY, PATH_SERVING
from modelyard_runtime.protocols.rest.forwarding import Find, forwarding_to
from modelyard_runtime.protocols.rest.schemas import Health, ServerHealth

__all__ = ["health_routes"]


def health_routes(find: Find) -> APIRouter:
    """Return the routes, which answer as those that `find` gives."""
    router = APIRouter(route_class=forwarding_to(find))
    not_now: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "Not now."}}
    not_now_v2: dict[int | str, dict[str, Any]] = {503: {"model": ServerHealth, "description": "Not now."}}
    numbers: dict[int | str, dict[str, Any]] = {
        200: {"description": "Prometheus text; OpenMetrics or JSON when Accept asks for it."}
    }

    @router.get(PATH_LIVE, tags=["health"], responses=not_now)
    async def live() -> Health:  # type: ignore[empty-body]  # forwarded
        """Whether the process answers at all, and not every compute thread is in a call that never returns."""

    @router.get("/health", tags=["health"], responses=not_now)
    @router.get(PATH_READY, tags=["health"], responses=not_now)
    async def ready() -> Health:  # type: ignore[empty-body]  # forwarded
        """Whether new requests should come here: from warm-up to SIGTERM. For routers and balancers."""

    @router.get(PATH_SERVING, tags=["health"], responses=not_now)
    async def serving() -> Health:  # type: ignore[empty-body]  # forwarded
        """Whether requests are answered: from warm-up until the listener closes. The kubelet's readiness probe.

        Green while draining, so that the last requests to a single replica still reach it.
        """

    @router.get("/v2/health/live", tags=["v2"], responses=not_now_v2)
    async def server_live() -> ServerHealth:  # type: ignore[empty-body]  # forwarded
        """Whether the process answers at all."""

    @router.get("/v2/health/ready", tags=["v2"], responses=not_now_v2)
    async def server_ready() -> ServerHealth:  # type: ignore[empty-body]  # forwarded
        """Whether new requests should come here: from warm-up to SIGTERM."""

    @router.get(METRICS_PATH, tags=["metrics"], response_class=PlainTextResponse, responses=numbers)
    async def read_metrics() -> None:
        """Return the metrics of this server, of all its workers."""

    return router
