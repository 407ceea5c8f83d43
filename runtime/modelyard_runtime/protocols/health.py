"""Health: whether the process lives, whether routers should send requests here, and whether requests are answered."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from modelyard_runtime.contract import HEADER_ROUTER, PATH_LIVE, PATH_READY, PATH_SERVING
from modelyard_runtime.serving.drain import Drain
from modelyard_runtime.serving.registry import ModelState, Registry

__all__ = ["Health", "health_routes"]


class Health(BaseModel):
    """`ready`, `loading`, `failed`, `unloaded` or `draining` (`live` for the process alone), and each model's state.

    Models that were unloaded don't count, unless all are.
    """

    status: str
    models: dict[str, str]


def health_routes(registry: Registry, drain: Drain) -> APIRouter:
    """Return the routes. They touch nothing that computes, so they answer while models are busy."""
    router = APIRouter(tags=["health"])
    unavailable: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "Not now."}}

    def answer(status: str, *, good: bool) -> JSONResponse:
        content = {"status": status, "models": {name: state.value for name, state in registry.states.items()}}
        return JSONResponse(content, status_code=200 if good else 503)

    def state() -> str:
        if drain.active:
            return "draining"
        if registry.ready:
            return "ready"
        states = set(registry.states.values())
        if ModelState.FAILED in states:
            return "failed"
        return "unloaded" if states == {ModelState.UNLOADED} else "loading"

    @router.get(PATH_LIVE, response_model=Health)
    async def live() -> JSONResponse:
        """Whether the process answers at all."""
        return answer("live", good=True)

    @router.get("/health", response_model=Health, responses=unavailable)
    @router.get(PATH_READY, response_model=Health, responses=unavailable)
    async def ready(request: Request) -> JSONResponse:
        """Whether new requests should come here: from warm-up to SIGTERM. For routers and balancers."""
        if HEADER_ROUTER in request.headers:
            drain.on_router_check()
        return answer(state(), good=registry.ready and not drain.active)

    @router.get(PATH_SERVING, response_model=Health, responses=unavailable)
    async def serving() -> JSONResponse:
        """Whether requests are answered: from warm-up until the listener closes. The kubelet's readiness probe.

        Green while draining, so that the last requests to a single replica still reach it.
        """
        return answer(state(), good=registry.ready)

    return router
