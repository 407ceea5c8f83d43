"""The V1 protocol of TensorFlow Serving and KServe: POST /v1/models/{m}:predict, and the state of models."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from fastapi import APIRouter
from fastapi.responses import JSONResponse

from modelyard_runtime.errors import BadRequest
from modelyard_runtime.formats.base import Rows
from modelyard_runtime.observe.statistics import Look
from modelyard_runtime.protocols.hot import Answer, Call, HotRoute, Parts
from modelyard_runtime.protocols.inputs import parse_instances, rows_of_instances
from modelyard_runtime.protocols.large import LARGE_BYTES, parse_large
from modelyard_runtime.protocols.models import ErrorBody
from modelyard_runtime.protocols.predict import use_cache
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

    async def handle(call: Call) -> Answer:
        served = call.served = resolve_version(parts.registry, name, version)
        large = len(call.body) > LARGE_BYTES
        if large:
            request = await asyncio.to_thread(parse_large, call.body)
        else:
            request = parse_instances(call.body, parts.floats)
        if "instances" not in request:
            got = ", ".join(sorted(str(key)[:40] for key in request)[:8]) or "nothing"
            raise BadRequest(f'the body lacks instances; it has {got}. Send {{"instances": [[1.0, 2.0]]}}')
        if large:
            rows = await asyncio.to_thread(rows_of_instances, served.model, request["instances"])
        else:
            rows = rows_of_instances(served.model, request["instances"])
        stages = call.stages
        stages.on_parsed(len(rows))
        if use_cache(request):
            return Answer(await _cached(parts, call, served, rows))
        predictions = await parts.compute.predict(served.model, rows, deadline=call.deadline, on_start=stages.on_start)
        stages.on_computed()
        return Answer(
            orjson.dumps({"predictions": predictions.tolist()}, option=orjson.OPT_SERIALIZE_NUMPY, default=str)
        )

    if version is None:
        return HotRoute("v1", parts, handle, "/v1/models/{model}:predict", {"model": name})
    names = {"model": name, "version": version}
    return HotRoute("v1", parts, handle, "/v1/models/{model}/versions/{version}:predict", names)


async def _cached(parts: Parts, call: Call, served: ServedModel, rows: Rows) -> bytes:
    stages = call.stages
    look = stages.look = Look()

    async def compute() -> bytes:
        found = await parts.compute.predict(served.model, rows, deadline=call.deadline, on_start=stages.on_start)
        stages.on_computed()
        return orjson.dumps(found.tolist(), option=orjson.OPT_SERIALIZE_NUMPY, default=str)

    predictions = await parts.answers.get(served, "v1", {"": rows}, compute, deadline=call.deadline, look=look)
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
