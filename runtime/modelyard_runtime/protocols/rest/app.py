"""The FastAPI application: every route of the server, and its OpenAPI document."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from modelyard_runtime.dataplane.catalog import Catalog
from modelyard_runtime.dataplane.registry import Registry
from modelyard_runtime.errors import ClientGone
from modelyard_runtime.protocols.rest.admin import admin_routes
from modelyard_runtime.protocols.rest.forwarding import Find
from modelyard_runtime.protocols.rest.health import health_routes
from modelyard_runtime.protocols.rest.inference import inference_routes
from modelyard_runtime.protocols.rest.models import model_routes
from modelyard_runtime.protocols.rest.v1 import v1_routes
from modelyard_runtime.protocols.rest.v2 import v2_routes
from modelyard_runtime.protocols.v2.repository import Repository
from modelyard_runtime.telemetry.totals import Totals

__all__ = ["create_app"]

_logger = logging.getLogger(__name__)


def create_app(
    find: Find, registry: Registry, totals: Totals, *, catalog: Catalog, repository: Repository, token: bytes | None
) -> FastAPI:
    """Return the application; inference, health and metrics answer as the routes that `find` gives."""
    app = FastAPI(
        title="Modelyard runtime",
        description="Predictions, health and metrics of one model server.",
        redirect_slashes=False,
    )
    app.include_router(inference_routes(find))
    app.include_router(health_routes(find))
    app.include_router(model_routes(registry, totals))
    app.include_router(admin_routes(catalog, registry, token))
    app.include_router(v2_routes(registry, totals, repository))
    app.include_router(v1_routes(registry))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    for gone in (ClientGone, ClientDisconnect):
        app.add_exception_handler(gone, _client_gone)
    app.add_exception_handler(Exception, _server_error)
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
