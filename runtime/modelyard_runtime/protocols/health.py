"""Health: whether the process lives, whether routers should send requests here, and whether requests are answered."""

from __future__ import annotations

from modelyard_runtime.contract import HEADER_ROUTER, PATH_LIVE, PATH_READY, PATH_SERVING
from modelyard_runtime.dataplane.dataplane import DataPlane
from modelyard_runtime.dataplane.registry import ModelState
from modelyard_runtime.http.drain import Drain
from modelyard_runtime.http.response import Header, Response, json_response
from modelyard_runtime.protocols.get_route import GetRoute, header

__all__ = ["health_routes"]


def health_routes(plane: DataPlane, drain: Drain) -> dict[str, GetRoute]:
    """Return the routes by path, OIP v2's too. They touch nothing that computes, so they answer while models are busy.

    rest/health.py declares them.
    """

    registry = plane.registry

    def answer(status: str, *, good: bool) -> Response:
        content = {"status": status, "models": {name: state.value for name, state in registry.states.items()}}
        return json_response(200 if good else 503, content)

    def state() -> str:
        if drain.active:
            return "draining"
        if plane.ready:
            return "ready"
        if registry.ready:
            return "stuck"
        states = set(registry.states.values())
        if ModelState.FAILED in states:
            return "failed"
        return "unloaded" if states == {ModelState.UNLOADED} else "loading"

    def takes_requests(headers: list[Header]) -> bool:
        if header(headers, HEADER_ROUTER) is not None:
            drain.on_router_check()
        return plane.ready and not drain.active

    async def live(headers: list[Header]) -> Response:
        return answer("live" if plane.alive else "stuck", good=plane.alive)

    async def ready(headers: list[Header]) -> Response:
        return answer(state(), good=takes_requests(headers))

    async def serving(headers: list[Header]) -> Response:
        # Green while draining, so that the last requests to a single replica still reach it.
        return answer(state(), good=plane.ready)

    async def live_v2(headers: list[Header]) -> Response:
        live = {"live": plane.alive, "ready": plane.ready and not drain.active}
        return json_response(200 if plane.alive else 503, live)

    async def ready_v2(headers: list[Header]) -> Response:
        good = takes_requests(headers)
        return json_response(200 if good else 503, {"live": plane.alive, "ready": good})

    handlers = {
        PATH_LIVE: live,
        "/health": ready,
        PATH_READY: ready,
        PATH_SERVING: serving,
        "/v2/health/live": live_v2,
        "/v2/health/ready": ready_v2,
    }
    return {path: GetRoute(handler, drain) for path, handler in handlers.items()}
