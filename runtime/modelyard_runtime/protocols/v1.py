"""The V1 protocol of TensorFlow Serving and KServe: POST /v1/models/{m}:predict, and the state of models."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from modelyard_runtime.observe.statistics import Stages
from modelyard_runtime.protocols.hot import Answer, Call, HotRoute, Parts
from modelyard_runtime.protocols.models import ErrorBody
from modelyard_runtime.protocols.rows import MANY_ROWS, answer_rows
from modelyard_runtime.protocols.v2.infer import resolve_version
from modelyard_runtime.serving.registry import ModelState, Registry, ServedModel

__all__ = ["find_v1", "v1_route", "v1_routes"]

_PREFIX = "/v1/models/"
_SUFFIX = ":predict"
_STATES = {ModelState.LOADING: "LOADING", ModelState.READY: "AVAILABLE"}


def find_v1(path: str) -> tuple[str, str | None] | None:
    """Return the model and version that a prediction's path names; None for another path."""
    if not (path.startswith(_PREFIX) and path.endswith(_SUFFIX)):
        return None
    parts = path[len(_PREFIX) : -len(_SUFFIX)].split("/")
    if len(parts) == 1 and parts[0]:
        return parts[0], None
    if len(parts) == 3 and parts[0] and parts[1] == "versions":
        return parts[0], parts[2]
    return None


def v1_route(parts: Parts, name: str, version: str | None) -> HotRoute:
    """Answer `{"instances": [...]}`, rows as lists or as objects of named values, with `{"predictions": [...]}`.

    With `"use_cache": true` beside the instances, `"cached"` in the answer says whether it came from the cache.
    """

    def handle(call: Call) -> Awaitable[Answer]:
        call.served = resolve_version(parts.registry, name, version)
        return answer_rows(parts, MANY_ROWS, _body, call)

    if version is None:
        return HotRoute("v1", parts, handle, "/v1/models/{model}:predict", {"model": name})
    names = {"model": name, "version": version}
    return HotRoute("v1", parts, handle, "/v1/models/{model}/versions/{version}:predict", names)


def _body(_: ServedModel, stages: Stages, predictions: bytes) -> bytes:
    look = stages.look
    if look is None:
        return b'{"predictions":' + predictions + b"}"
    return b'{"predictions":%b,"cached":%b}' % (predictions, b"true" if look.cached else b"false")


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
