"""The Open Inference Protocol's routes but inference: metadata, repository, statistics, and the unsupported."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict

from modelyard_runtime.dataplane.registry import Registry
from modelyard_runtime.errors import BadRequest, RequestError, Unsupported
from modelyard_runtime.http.asgi import Receive
from modelyard_runtime.http.body import read_body
from modelyard_runtime.http.encoding import content_encoding, inflate
from modelyard_runtime.protocols.rest.schemas import ErrorBody
from modelyard_runtime.protocols.v2.describe import (
    installed_version,
    model_config,
    model_metadata,
    repository_index,
    server_metadata,
    statistics_of,
)
from modelyard_runtime.protocols.v2.repository import Repository
from modelyard_runtime.telemetry.totals import Totals

__all__ = ["v2_routes"]

_MAX_BODY_BYTES = 65536
_BODY_SECONDS = 5.0
_UNSUPPORTED = (
    "/v2/systemsharedmemory/{rest:path}",
    "/v2/cudasharedmemory/{rest:path}",
    "/v2/trace/setting",
    "/v2/models/{name}/trace/setting",
    "/v2/logging",
    "/v2/models/{name}/generate",
    "/v2/models/{name}/generate_stream",
)


class ServerMetadata(BaseModel):
    """What this server is."""

    name: str
    version: str
    extensions: list[str]


class ModelReadiness(BaseModel):
    """Whether a model answers."""

    name: str
    ready: bool


class TensorMetadata(BaseModel):
    """An input or output; -1 in `shape` is any number, `parameters.on_request` an output made when it is named."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class IndexEntry(BaseModel):
    """A model of the repository."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    version: str | None = None
    state: str
    reason: str


class ModelStatisticsList(BaseModel):
    """Counts and nanoseconds of each model's requests, by stage."""

    model_config = ConfigDict(protected_namespaces=())

    model_stats: list[dict[str, Any]]


def v2_routes(registry: Registry, totals: Totals, repository: Repository) -> APIRouter:
    """Return the routes. Errors are `{"error": str}`."""
    router = APIRouter(tags=["v2"])
    about = server_metadata(installed_version(), changeable=repository.changeable)
    errors: dict[int | str, dict[str, Any]] = {
        404: {"model": ErrorBody, "description": "No such model or version."},
        503: {"model": ErrorBody, "description": "The model is not ready."},
    }

    @router.get("/v2", response_model=ServerMetadata)
    @router.get("/v2/", response_model=ServerMetadata, include_in_schema=False)
    async def server() -> JSONResponse:
        """Describe the server."""
        return JSONResponse(about)

    # Ahead of /v2/models/{name}, which would take it for a model's name.
    @router.get("/v2/models/stats", response_model=ModelStatisticsList)
    async def all_statistics() -> JSONResponse:
        """Count the work of all models, by stage; durations in nanoseconds."""
        statistics = await totals.statistics()
        return _answer(lambda: {"model_stats": statistics_of(registry, statistics, None, None)})

    @router.get("/v2/models/{name}/stats", response_model=ModelStatisticsList, responses=errors)
    async def model_statistics(name: str) -> JSONResponse:
        """Count the work of a model, by stage; durations in nanoseconds."""
        statistics = await totals.statistics()
        return _answer(lambda: {"model_stats": statistics_of(registry, statistics, name, None)})

    @router.get("/v2/models/{name}/versions/{version}/stats", response_model=ModelStatisticsList, responses=errors)
    async def version_statistics(name: str, version: str) -> JSONResponse:
        """Count the work of a version of a model, by stage; durations in nanoseconds."""
        statistics = await totals.statistics()
        return _answer(lambda: {"model_stats": statistics_of(registry, statistics, name, version)})

    @router.get("/v2/models/{name}", response_model=ModelMetadata, responses=errors)
    async def describe_v2_model(name: str) -> JSONResponse:
        """Describe a model's inputs and outputs."""
        return _answer(lambda: model_metadata(registry.resolve_version(name, None)))

    @router.get("/v2/models/{name}/versions/{version}", response_model=ModelMetadata, responses=errors)
    async def describe_v2_model_version(name: str, version: str) -> JSONResponse:
        """Describe a version of a model's inputs and outputs."""
        return _answer(lambda: model_metadata(registry.resolve_version(name, version)))

    @router.get("/v2/models/{name}/config", responses=errors)
    async def configuration(name: str) -> JSONResponse:
        """Describe a model in the form of Triton's model configuration."""
        return _answer(lambda: model_config(registry.resolve_version(name, None)))

    @router.get("/v2/models/{name}/versions/{version}/config", responses=errors)
    async def configuration_version(name: str, version: str) -> JSONResponse:
        """Describe a version of a model in the form of Triton's model configuration."""
        return _answer(lambda: model_config(registry.resolve_version(name, version)))

    @router.get("/v2/models/{name}/ready", response_model=ModelReadiness, responses=errors)
    async def model_ready(name: str) -> JSONResponse:
        """Whether a model answers."""
        return _answer(lambda: {"name": registry.resolve_version(name, None).name, "ready": True})

    @router.get("/v2/models/{name}/versions/{version}/ready", response_model=ModelReadiness, responses=errors)
    async def model_ready_version(name: str, version: str) -> JSONResponse:
        """Whether a version of a model answers."""
        return _answer(lambda: {"name": registry.resolve_version(name, version).name, "ready": True})

    @router.post("/v2/repository/index", response_model=list[IndexEntry], responses={400: {"model": ErrorBody}})
    async def index(request: Request) -> JSONResponse:
        """List the models; `{"ready": true}` in the body, which may be left out, lists those that answer."""
        try:
            data = await _object(request)
            ready_only = data.get("ready", False)
            if type(ready_only) is not bool:
                raise BadRequest('the body needs to be {"ready": true}, or nothing')
        except RequestError as exc:
            return _error(exc)
        return JSONResponse(repository_index(registry, ready_only=ready_only))

    async def changed(request: Request, change: Callable[[Mapping[str, Any]], Awaitable[None]]) -> Response:
        try:
            repository.check(request.headers.get("authorization", ""))
            data = await _object(request)
            parameters = data.get("parameters") or {}
            if not isinstance(parameters, dict) or data.keys() - {"parameters"}:
                raise BadRequest('the body needs to be {"parameters": {}}, or nothing')
            await change(parameters)
        except RequestError as exc:
            return _error(exc)
        return Response()

    @router.post("/v2/repository/models/{name}/load", **_change_route(unload=False))
    async def load_model(request: Request, name: str) -> Response:
        """Load a model again from its source, one that is unloaded too, without a gap: the admin token is needed."""
        return await changed(request, lambda parameters: repository.load(name, parameters))

    @router.post("/v2/repository/models/{name}/unload", **_change_route(unload=True))
    async def unload_model(request: Request, name: str) -> Response:
        """Take a model off until it is loaded again: the admin token is needed."""
        return await changed(request, lambda parameters: repository.unload(name, parameters))

    async def unsupported(request: Request) -> JSONResponse:
        return _error(Unsupported(f"{request.url.path[:200]} is unsupported by this server; see GET /v2 for what is"))

    for path in _UNSUPPORTED:
        router.add_api_route(
            path,
            unsupported,
            methods=["GET", "POST"],
            status_code=501,
            response_class=JSONResponse,
            include_in_schema=False,
        )
    return router


def _answer(describe: Any) -> JSONResponse:
    try:
        return JSONResponse(describe())
    except RequestError as exc:
        return _error(exc)


def _error(exc: RequestError) -> JSONResponse:
    headers = {"retry-after": str(exc.retry_after)} if exc.retry_after is not None else None
    return JSONResponse({"error": exc.message}, status_code=exc.status, headers=headers)


async def _object(request: Request) -> dict[str, Any]:
    """Return the object that a body is, an empty one for none. Raises RequestError."""
    headers = request.scope["headers"]
    encoding = content_encoding(headers)
    receive = cast("Receive", request.receive)
    body = await read_body(headers, receive, limit=_MAX_BODY_BYTES, timeout=_BODY_SECONDS)
    body = await inflate(body, encoding, _MAX_BODY_BYTES)
    if not body.strip():
        return {}
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise BadRequest(f"the body is not valid JSON: {exc}") from None
    if not isinstance(data, dict):
        raise BadRequest("the body needs to be an object, or nothing")
    return data


def _change_route(*, unload: bool) -> dict[str, Any]:
    """Return how OpenAPI describes loading or unloading."""
    dependents = {"unload_dependents": {"type": "boolean", "description": "No model has dependents here."}}
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": dependents if unload else {},
        "additionalProperties": False,
    }
    schema = {"type": "object", "properties": {"parameters": parameters}, "additionalProperties": False}
    errors = {
        400: "Not such a request." if unload else "Not such a request, or it does not load: all is as it was before.",
        403: "Without the admin token; always, in a cluster.",
        404: "No such model.",
        503: "The model is being loaded for the first time.",
    }
    if not unload:
        errors[501] = "The parameters config and file:PATH."
    return {
        "response_class": Response,
        "responses": {code: {"model": ErrorBody, "description": text} for code, text in errors.items()},
        "openapi_extra": {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}},
    }
