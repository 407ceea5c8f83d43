"""What is served: GET /models and /models/{name}."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from modelyard_runtime.dataplane.registry import Registry, ServedModel
from modelyard_runtime.protocols.rest.schemas import ErrorBody
from modelyard_runtime.telemetry.metrics import Counts
from modelyard_runtime.telemetry.totals import Totals

__all__ = ["ModelDescription", "ModelList", "model_routes"]


class Tensor(BaseModel):
    """An input or output; -1 in `shape` is any number."""

    name: str
    datatype: str
    shape: list[int]


class ModelCounts(BaseModel):
    """Requests in numbers; an error is any answer of 400 or above."""

    request_count: int
    error_count: int
    error_rate: float
    avg_latency_ms: float


class ModelDescription(BaseModel):
    """A model and its state; all but name and state are absent until it is ready."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    state: str
    version: str | None = None
    format: str | None = None
    digest: str | None = None
    uri: str | None = None
    inputs: list[Tensor] | None = None
    outputs: list[Tensor] | None = None
    feature_names: list[str] | None = None
    compiled: str | None = None
    compiled_reason: str | None = None
    batching: bool | None = None
    batching_reason: str | None = None
    metadata: dict[str, Any] | None = None
    counts: ModelCounts | None = None


class ModelList(BaseModel):
    """All models."""

    models: list[ModelDescription]


def model_routes(registry: Registry, totals: Totals) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["models"])
    missing: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody, "description": "No such model."}}

    async def describe() -> dict[str, dict[str, Any]]:
        _, counts = (await totals.metrics()).counts()
        loaded = {served.name: served for served in registry.served()}
        return {
            name: {"name": name, "state": state.value, **_details(loaded.get(name), counts.get(name, Counts()))}
            for name, state in registry.states.items()
        }

    @router.get("/models", response_model=ModelList)
    async def list_models() -> JSONResponse:
        """List the models, ready or not."""
        return JSONResponse({"models": list((await describe()).values())})

    @router.get("/models/{name}", response_model=ModelDescription, responses=missing)
    async def get_model(name: str) -> JSONResponse:
        """Describe a model: state, version, format, digest, inputs, outputs, counts."""
        found = (await describe()).get(name)
        if found is None:
            return JSONResponse({"error": f"no model {name[:100]!r} is served here; see GET /models"}, status_code=404)
        return JSONResponse(found)

    return router


def _details(served: ServedModel | None, counts: Counts) -> dict[str, Any]:
    if served is None:
        return {}
    model = served.model
    return {
        "version": served.version,
        "format": served.format,
        "digest": served.digest,
        "uri": served.uri,
        "inputs": [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in model.inputs],
        "outputs": [
            {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in model.outputs
        ],
        "feature_names": list(model.feature_names) if model.feature_names is not None else None,
        "compiled": model.compiled.form,
        "compiled_reason": model.compiled.reason or None,
        "batching": model.batching.allowed,
        "batching_reason": model.batching.reason,
        "metadata": dict(model.metadata),
        "counts": {
            "request_count": counts.request_count,
            "error_count": counts.error_count,
            "error_rate": counts.error_rate,
            "avg_latency_ms": counts.avg_latency_ms,
        },
    }
