"""Changes of what is served: only under `modelyard serve --admin-token-file`, and only with that token.

In a cluster the spec decides, and the replicas of a model must not differ: there all of it is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelyard_runtime.dataplane.catalog import Catalog, Source
from modelyard_runtime.dataplane.registry import Registry, ServedModel
from modelyard_runtime.errors import RequestError, StartupFailure
from modelyard_runtime.protocols.admin_token import check_token
from modelyard_runtime.protocols.rest.schemas import ErrorBody

__all__ = ["ActiveModel", "NewModel", "admin_routes"]

_NAME = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
_MAX_BODY = 65536


class NewModel(BaseModel):
    """A model to load: it answers once it is warm, unless `activate` is false."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=63, pattern=_NAME)
    uri: str = Field(min_length=1, max_length=2048)
    format: str = ""
    version: str = Field("", max_length=63, pattern=rf"^$|{_NAME}")
    digest: str = ""
    activate: bool = True


class ActiveModel(BaseModel):
    """A model by name: the version that answers (empty for one that is unloaded), and those that are loaded."""

    name: str
    version: str
    versions: list[str]


def admin_routes(catalog: Catalog, registry: Registry, token: bytes | None) -> APIRouter:
    """Return the routes; `token` None refuses everything."""
    router = APIRouter(tags=["models"])
    errors: dict[int | str, dict[str, Any]] = {
        403: {"model": ErrorBody, "description": "Without the admin token; always, in a cluster."},
        404: {"model": ErrorBody, "description": "No such model or version."},
        422: {"model": ErrorBody, "description": "It can't be loaded; what was served before still is."},
    }

    async def guarded(request: Request, change: Callable[[], Awaitable[JSONResponse]]) -> JSONResponse:
        try:
            check_token(token, request.headers.get("authorization", ""))
            return await change()
        except RequestError as exc:
            return JSONResponse({"error": exc.message}, status_code=exc.status)
        except StartupFailure as exc:
            return JSONResponse({"error": f"{exc.reason.value}: {exc.message}"}, status_code=422)

    def described(served: ServedModel, *, status: int = 200) -> JSONResponse:
        active = registry.active(served.name)
        version = active.version if active is not None else ""
        body = {"name": served.name, "version": version, "versions": registry.versions(served.name)}
        return JSONResponse(body, status_code=status)

    body = {"required": True, "content": {"application/json": {"schema": NewModel.model_json_schema()}}}

    @router.post(
        "/models",
        status_code=201,
        response_model=ActiveModel,
        responses=errors,
        openapi_extra={"requestBody": body},
    )
    async def register(request: Request) -> JSONResponse:
        """Load a model or another version of it, and make it answer, unless `activate` is false."""

        async def change() -> JSONResponse:
            data = bytearray()
            async for chunk in request.stream():
                data += chunk
                if len(data) > _MAX_BODY:
                    return JSONResponse({"error": f"the body is over {_MAX_BODY} bytes"}, status_code=413)
            try:
                new = NewModel.model_validate(orjson.loads(data))
            except orjson.JSONDecodeError as exc:
                return JSONResponse({"error": f"the body is not valid JSON: {exc}"}, status_code=400)
            except ValidationError as exc:
                problems = "; ".join(
                    f"{'.'.join(map(str, error['loc'])) or 'the body'}: {error['msg']}" for error in exc.errors()[:5]
                )
                return JSONResponse({"error": problems}, status_code=422)
            source = Source(name=new.name, uri=new.uri, format=new.format, version=new.version, digest=new.digest)
            known = new.name in registry.states
            loaded = await catalog.load(source, activate=new.activate or not known)
            return described(loaded.served, status=201)

        return await guarded(request, change)

    @router.delete("/models/{name}", response_model=ActiveModel, responses=errors)
    async def unload(request: Request, name: str) -> JSONResponse:
        """Forget a model, one that is unloaded too; requests that have begun are answered."""

        async def change() -> JSONResponse:
            removed = await catalog.remove(name)
            version = removed.version if removed is not None else ""
            return JSONResponse({"name": name, "version": version, "versions": []})

        return await guarded(request, change)

    @router.post("/models/{name}/versions/{version}/activate", response_model=ActiveModel, responses=errors)
    async def activate(request: Request, name: str, version: str) -> JSONResponse:
        """Make a version that is loaded answer, from the next request on."""

        async def change() -> JSONResponse:
            return described(registry.switch(name, version))

        return await guarded(request, change)

    return router
