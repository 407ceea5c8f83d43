"""GET /metrics: Prometheus text, OpenMetrics or JSON, as the client asks."""

from __future__ import annotations

from modelyard_runtime.http.drain import Drain
from modelyard_runtime.http.response import Header, Response, json_response
from modelyard_runtime.protocols.get_route import GetRoute, header
from modelyard_runtime.telemetry.totals import Totals

__all__ = ["metrics_route"]


def metrics_route(totals: Totals, drain: Drain) -> GetRoute:
    """Return the route."""

    async def read_metrics(headers: list[Header]) -> Response:
        metrics = await totals.metrics()
        accept = header(headers, "accept") or ""
        if "application/json" in accept:
            return json_response(200, metrics.counts_json())
        body, content_type = metrics.render(accept)
        return Response(200, ((b"content-type", content_type.encode()),), body)

    return GetRoute(read_metrics, drain)
