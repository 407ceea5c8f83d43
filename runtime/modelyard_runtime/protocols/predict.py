"""The seed API's inference: POST /predict and /predict/batch, from bytes to numpy to bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from modelyard_runtime.errors import BadRequest, WrongInput
from modelyard_runtime.formats.base import Array, Model, Rows
from modelyard_runtime.observe.statistics import Look
from modelyard_runtime.protocols.hot import Answer, Call, HotRoute, Parts
from modelyard_runtime.protocols.inputs import parse_instances, parse_object, rows_of_features, rows_of_instances
from modelyard_runtime.protocols.large import LARGE_BYTES, parse_large
from modelyard_runtime.serving.registry import ServedModel

__all__ = ["predict_routes", "use_cache"]


@dataclass(frozen=True)
class _Shape:
    """What distinguishes the two routes: their fields, and one prediction against a list of them."""

    field: str
    answer: str
    to_rows: Callable[[Model, Any], Rows]
    single: bool


_SHAPES = {
    "/predict": _Shape("features", "prediction", rows_of_features, single=True),
    "/predict/batch": _Shape("instances", "predictions", rows_of_instances, single=False),
}


def predict_routes(parts: Parts) -> dict[str, HotRoute]:
    """Return the routes by path."""
    return {
        path: HotRoute("seed", parts, _Predict(parts, shape).handle, path, tells_wrong=True)
        for path, shape in _SHAPES.items()
    }


class _Predict:
    """Answers predictions of one shape."""

    def __init__(self, parts: Parts, shape: _Shape) -> None:
        self._parts = parts
        self._shape = shape

    async def handle(self, call: Call) -> Answer:
        shape = self._shape
        large = len(call.body) > LARGE_BYTES
        if large:
            request = await asyncio.to_thread(parse_large, call.body)
        elif shape.single:
            request = parse_object(call.body)
        else:
            request = parse_instances(call.body, self._parts.floats)
        served = call.served = self._parts.registry.resolve(_model_name(request))
        if shape.field not in request:
            got = ", ".join(sorted(str(key)[:40] for key in request)[:8]) or "nothing"
            raise BadRequest(f"the body lacks {shape.field}; it has {got}")
        if large:
            rows = await asyncio.to_thread(shape.to_rows, served.model, request[shape.field])
        else:
            rows = shape.to_rows(served.model, request[shape.field])
        stages = call.stages
        stages.on_parsed(len(rows))
        if use_cache(request):
            answer, cached = await self._cached(call, served, rows, large=large)
        else:
            answer, cached = await self._compute(call, served, rows, large=large), False
        body = {
            shape.answer: orjson.Fragment(answer),
            "model_name": served.name,
            "model_version": served.version,
            "cached": cached,
            "latency_ms": round((time.perf_counter_ns() - stages.arrived) / 1e6, 3),
        }
        return Answer(orjson.dumps(body))

    async def _compute(self, call: Call, served: ServedModel, rows: Rows, *, large: bool) -> bytes:
        """Return the predictions as JSON."""
        stages = call.stages
        predictions = await self._parts.compute.predict(
            served.model, rows, deadline=call.deadline, on_start=stages.on_start
        )
        stages.on_computed()
        return (
            await asyncio.to_thread(_encode, predictions, self._shape) if large else _encode(predictions, self._shape)
        )

    async def _cached(self, call: Call, served: ServedModel, rows: Rows, *, large: bool) -> tuple[bytes, bool]:
        """Return the predictions as JSON, and whether they were computed for an earlier request."""
        look = call.stages.look = Look()
        answer = await self._parts.answers.get(
            served,
            self._shape.field,
            {"": rows},
            lambda: self._compute(call, served, rows, large=large),
            deadline=call.deadline,
            look=look,
        )
        return answer, look.cached


def _model_name(request: dict[str, Any]) -> str | None:
    name = request.get("model_name")
    if name is not None and type(name) is not str:
        raise WrongInput("model_name needs to be a string")
    return name


def use_cache(request: dict[str, Any]) -> bool:
    """Whether the answer may come from the cache, and go there. Raises WrongInput."""
    use = request.get("use_cache", False)
    if type(use) is not bool:
        raise WrongInput("use_cache needs to be true or false")
    return use


def _encode(predictions: Array, shape: _Shape) -> bytes:
    """Encode predictions in JSON's own types; tolist leaves nothing of numpy, whatever the dtype."""
    values = predictions.tolist()
    return orjson.dumps(values[0] if shape.single else values, option=orjson.OPT_SERIALIZE_NUMPY, default=str)
