"""The inference routes, declared: /predict, V1 and OIP v2."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header

from modelyard_runtime.protocols.rest.forwarding import Find, forwarding_to
from modelyard_runtime.protocols.rest.schemas import (
    BatchRequest,
    BatchResponse,
    ErrorBody,
    InferRequest,
    InferResponse,
    PredictRequest,
    PredictResponse,
    V1Request,
    V1Response,
)

__all__ = ["inference_routes"]

_ERRORS = {
    400: "The body is missing, is no JSON, lacks a field, or is not what the model takes.",
    404: "No such model or version.",
    408: "The body did not arrive in time.",
    413: "The body is too large, or inflates to too much.",
    415: "The body is compressed, and neither with gzip nor deflate.",
    429: "The queue is full; Retry-After says when to come back.",
    500: "The model failed.",
    503: "The model is not ready; Retry-After says when to come back.",
    504: "The model did not answer in time.",
}
_WRONG_INPUT = {422: "A field has the wrong type, shape or value."}
_UNSUPPORTED = {501: "A part of the protocol that this server does not have."}
_RAW: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_JSON_LENGTH = "The bytes of JSON ahead of raw tensors; 0: the body is one raw tensor; absent: all is JSON."


def inference_routes(find: Find) -> APIRouter:
    """Return the routes, which answer as those that `find` gives."""
    router = APIRouter(route_class=forwarding_to(find))

    @router.post("/predict", tags=["predict"], responses=_responses(_ERRORS, _WRONG_INPUT))
    async def predict(body: PredictRequest) -> PredictResponse:  # type: ignore[empty-body]  # forwarded
        """Predict one row."""

    @router.post("/predict/batch", tags=["predict"], responses=_responses(_ERRORS, _WRONG_INPUT))
    async def predict_batch(body: BatchRequest) -> BatchResponse:  # type: ignore[empty-body]  # forwarded
        """Predict many rows."""

    @router.post("/v1/models/{name}:predict", tags=["v1"], responses=_responses(_ERRORS))
    async def predict_v1(name: str, body: V1Request) -> V1Response:  # type: ignore[empty-body]  # forwarded
        """Predict many rows."""

    @router.post("/v1/models/{name}/versions/{version}:predict", tags=["v1"], responses=_responses(_ERRORS))
    async def predict_v1_version(  # type: ignore[empty-body]  # forwarded
        name: str, version: str, body: V1Request
    ) -> V1Response:
        """Predict many rows by a version of a model."""

    raw = {"requestBody": {"content": _RAW}}
    responses = {200: {"content": _RAW}, **_responses(_ERRORS, _UNSUPPORTED)}

    @router.post("/v2/models/{name}/infer", tags=["v2"], responses=responses, openapi_extra=raw)
    async def infer(  # type: ignore[empty-body]  # forwarded
        name: str,
        body: InferRequest,
        inference_header_content_length: Annotated[int | None, Header(ge=0, description=_JSON_LENGTH)] = None,
    ) -> InferResponse:
        """Infer."""

    @router.post("/v2/models/{name}/versions/{version}/infer", tags=["v2"], responses=responses, openapi_extra=raw)
    async def infer_version(  # type: ignore[empty-body]  # forwarded
        name: str,
        version: str,
        body: InferRequest,
        inference_header_content_length: Annotated[int | None, Header(ge=0, description=_JSON_LENGTH)] = None,
    ) -> InferResponse:
        """Infer by a version of a model."""

    return router


def _responses(*errors: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """Return how OpenAPI describes errors."""
    return {code: {"model": ErrorBody, "description": text} for found in errors for code, text in sorted(found.items())}
