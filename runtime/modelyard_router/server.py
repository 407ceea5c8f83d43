"""The sidecar's routes: for the operator, for the kubelet and for Prometheus."""

from __future__ import annotations

import asyncio

from aiohttp import web
from modelyard_runtime.contract import RouterPath

from modelyard_router.admin import Admin, Traffic
from modelyard_router.apply import Applier
from modelyard_router.errors import EnvoyUnreachable

__all__ = ["create_app", "drain"]

_DRAIN_LIMIT = 30.0  # seconds, unless the request says otherwise
_DRAIN_SETTLE = 3.0  # about what it takes until no balancer sends new connections here


def create_app(applier: Applier, admin: Admin) -> web.Application:
    """Return the application that answers under the paths of RouterPath."""

    async def applied(request: web.Request) -> web.Response:
        return web.json_response({"version": applier.applied.version, "error": applier.applied.error})

    async def started(request: web.Request) -> web.Response:
        if applier.started.is_set():
            return web.json_response({"started": True})
        return web.json_response({"error": applier.applied.error or "Envoy's files are not written yet"}, status=503)

    async def drained(request: web.Request) -> web.Response:
        try:
            limit = float(request.query.get("limit", _DRAIN_LIMIT))
            settle = float(request.query.get("settle", _DRAIN_SETTLE))
        except ValueError:
            return web.json_response({"error": "limit and settle are numbers of seconds"}, status=400)
        left = await drain(admin, limit=limit, settle=settle)
        return web.json_response({"connections": left})

    async def metrics(request: web.Request) -> web.Response:
        try:
            body = await admin.metrics()
        except EnvoyUnreachable as error:
            return web.json_response({"error": str(error)}, status=503)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application()
    app.add_routes(
        [
            web.get(RouterPath.APPLIED, applied),
            web.get(RouterPath.STARTED, started),
            # The kubelet's httpGet hook can only GET.
            web.get(RouterPath.DRAIN, drained),
            web.post(RouterPath.DRAIN, drained),
            web.get(RouterPath.METRICS, metrics),
        ]
    )
    return app


async def drain(admin: Admin, *, limit: float, settle: float, ask: float = 0.05) -> int:
    """Have Envoy close its connections one by one, and wait until they have ended.

    Args:
        admin: Envoy's admin interface.
        limit: seconds after which to give up waiting.
        settle: seconds without a new request that must have passed: those who balance do not know at once.
        ask: seconds between two looks.

    Returns:
        The connections that are still open: 0 but where the limit ended it, and where Envoy has gone.

    """
    clock = asyncio.get_running_loop().time
    end = clock() + limit
    traffic = Traffic(0, 0)
    try:
        await admin.drain()
        traffic, quiet_since = await admin.traffic(), clock()
        while clock() < end:
            before, traffic = traffic, await admin.traffic()
            if traffic.requests != before.requests:
                quiet_since = clock()
            if traffic.connections == 0 and clock() - quiet_since >= settle:
                break
            await asyncio.sleep(ask)
    except EnvoyUnreachable:
        return 0
    return traffic.connections
