"""GET /metrics: Prometheus text, OpenMetrics or JSON, as the client asks."""

from __future__ import annotations

from collections.abc import Callable

from modelyard_runtime.http.response import Header, Reply, json_reply
from modelyard_runtime.protocols.plain import PlainRoute, header
from modelyard_runtime.telemetry.totals import Totals

__all__ = ["metrics_route"]


def metrics_route(totals: Totals, draining: Callable[[], bool]) -> PlainRoute:
    """Return the route."""

    async def read_metrics(headers: list[Header]) -> Reply:
        metrics = await totals.metrics()
        accept = header(headers, "accept") or ""
        if "application/json" in accept:
            return json_reply(200, metrics.counts_json())
        body, content_type = metrics.render(accept)
        return Reply(200, ((b"content-type", content_type.encode()),), body)

    return PlainRoute(read_metrics, draining)
