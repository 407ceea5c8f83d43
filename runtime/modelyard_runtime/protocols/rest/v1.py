"""The V1 protocol of TensorFlow Serving and KServe: the state of models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from modelyard_runtime.dataplane.registry import ModelState, Registry
from modelyard_runtime.protocols.rest.schemas import ErrorBody

__all__ = ["v1_routes"]

_STATES = {ModelState.LOADING: "LOADING", ModelState.READY: "AVAILABLE"}


def v1_routes(registry: Registry) -> APIRouter:
    """Return the routes that describe models."""
    router = APIRouter(tags=["v1"])
    missing: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody, "description": "No such model."}}

    @router.get("/v1/models")
    async def list_v1_models() -> dict[str, list[str]]:
        """List the names of the models, ready or not."""
        return {"models": list(registry.states)}

    @router.get("/v1/models/{name}", responses=missing)
    async def get_v1_model(name: str) -> JSONResponse:
        """Tell a model's state, in the forms of KServe and of TensorFlow Serving."""
        state = registry.states.get(name)
        if state is None:
            return JSONResponse(
                {"error": f"no model {name[:100]!r} is served here; see GET /v1/models"}, status_code=404
            )
        served = next((served for served in registry.served() if served.name == name), None)
        status = {
            "version": served.version if served is not None else "",
            "state": "AVAILABLE" if served is not None else _STATES.get(state, "END"),
            "status": {"error_code": "OK", "error_message": ""},
        }
        return JSONResponse({"name": name, "ready": served is not None, "model_version_status": [status]})

    return router
