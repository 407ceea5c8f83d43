"""What the operator tells of itself: metrics and liveness, on one port."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics", "serve_health"]

_STUCK_SECONDS = 300.0


class Metrics:
    """The operator's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._reconciles = Counter("modelyard_reconcile", "Reconciles.", ["kind", "result"], registry=self.registry)
        self._seconds = Histogram(
            "modelyard_reconcile_duration_seconds", "Time of one reconcile.", ["kind"], registry=self.registry
        )
        self._requests = Counter(
            "modelyard_api_requests", "Requests to the API server.", ["verb", "kind"], registry=self.registry
        )
        self._depth = Gauge("modelyard_queue_depth", "Keys that wait for a worker.", registry=self.registry)

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Report the queue's depth whenever metrics are scraped."""
        self._depth.set_function(depth)

    def reconciled(self, kind: str, result: str, seconds: float) -> None:
        """Count one reconcile."""
        self._reconciles.labels(kind, result).inc()
        self._seconds.labels(kind).observe(seconds)

    def stood_back(self, kind: str) -> None:
        """Count one reconcile that was left to another installation."""
        self._reconciles.labels(kind, "other_operator").inc()

    def requested(self, verb: str, kind: str) -> None:
        """Count one request to the API server."""
        self._requests.labels(verb, kind).inc()


async def serve_health(metrics: Metrics, oldest_seconds: Callable[[], float], host: str, port: int) -> web.AppRunner:
    """Serve /metrics, and /healthz, which fails when a reconcile hangs. Return the runner, to be cleaned up."""

    async def healthz(_request: web.Request) -> web.Response:
        oldest = oldest_seconds()
        if oldest > _STUCK_SECONDS:
            return web.Response(status=503, text=f"a reconcile has been running for {oldest:.0f} s\n")
        return web.Response(text="ok\n")

    async def prometheus(_request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(metrics.registry), headers={"Content-Type": "text/plain; version=0.0.4"}
        )

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", prometheus)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
