"""The rare routes: models, metadata, changes, the documentation. A FastAPI application, which is imported on demand."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from modelyard_runtime.dataplane.catalog import Catalog
from modelyard_runtime.http.body import ClientGone
from modelyard_runtime.protocols.admin import admin_routes
from modelyard_runtime.protocols.models import ErrorBody, model_routes
from modelyard_runtime.protocols.openapi import PREDICT_PATHS, PREDICT_SCHEMAS
from modelyard_runtime.protocols.openapi_health import HEALTH_PATHS, HEALTH_SCHEMAS
from modelyard_runtime.protocols.openapi_inference import INFER_PATHS, INFER_SCHEMAS
from modelyard_runtime.protocols.route import Parts
from modelyard_runtime.protocols.v1_models import v1_routes
from modelyard_runtime.protocols.v2.routes import v2_routes

__all__ = ["rare_routes"]

_logger = logging.getLogger(__name__)


def rare_routes(parts: Parts, catalog: Catalog, token: bytes | None) -> FastAPI:
    """Return the application; its OpenAPI document describes the other routes too."""
    registry, totals = parts.registry, parts.totals
    app = FastAPI(
        title="Modelyard runtime",
        description="Predictions, health and metrics of one model server.",
        redirect_slashes=False,
    )
    app.include_router(model_routes(registry, totals))
    app.include_router(admin_routes(catalog, registry, token))
    app.include_router(v2_routes(registry, totals, parts.repository))
    app.include_router(v1_routes(registry))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    for gone in (ClientGone, ClientDisconnect):
        app.add_exception_handler(gone, _client_gone)
    app.add_exception_handler(Exception, _server_error)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schema["paths"] = {**PREDICT_PATHS, **INFER_PATHS, **HEALTH_PATHS, **schema["paths"]}
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(PREDICT_SCHEMAS, **INFER_SCHEMAS, **HEALTH_SCHEMAS, ErrorBody=ErrorBody.model_json_schema())
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend its schema
    return app


async def _http_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)  # noqa: S101 -- for the type checker; registered for this class
    path = request.url.path[:200]
    if exc.status_code == 404:
        message = f"there is no {path}; see /docs for what there is"
    elif exc.status_code == 405:
        allowed = (exc.headers or {}).get("Allow", "another method")
        message = f"{request.method} {path} is not allowed; use {allowed}"
    else:
        message = str(exc.detail)
    return JSONResponse({"error": message}, status_code=exc.status_code, headers=exc.headers)


async def _validation_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)  # noqa: S101 -- for the type checker; registered for this class
    problems = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors()[:5])
    return JSONResponse({"error": problems}, status_code=422)


async def _client_gone(request: Request, exc: Exception) -> Response:
    return Response(status_code=499)  # as proxies put it; there is nobody to read it


async def _server_error(request: Request, exc: Exception) -> JSONResponse:
    _logger.error("%s %s failed", request.method, request.url.path, exc_info=exc)
    return JSONResponse({"error": "the server failed; its log says why"}, status_code=500)
