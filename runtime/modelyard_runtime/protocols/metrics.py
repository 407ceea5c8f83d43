"""GET /metrics: Prometheus text, OpenMetrics or JSON, as the client asks."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from modelyard_runtime.contract import METRICS_PATH
from modelyard_runtime.observe.totals import Totals

__all__ = ["metrics_routes"]

_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus text; OpenMetrics or JSON when Accept asks for it.",
        "content": {"text/plain": {"schema": {"type": "string"}}, "application/json": {"schema": {"type": "object"}}},
    }
}


def metrics_routes(totals: Totals) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["metrics"])

    @router.get(METRICS_PATH, responses=_CONTENT, response_class=Response)
    async def read_metrics(request: Request) -> Response:
        """Return the metrics of this server, of all its workers."""
        metrics = await totals.metrics()
        accept = request.headers.get("accept", "")
        if "application/json" in accept:
            return JSONResponse(metrics.counts_json())
        body, content_type = metrics.render(accept)
        return Response(body, headers={"content-type": content_type})

    return router
