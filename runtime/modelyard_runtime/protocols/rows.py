"""From rows in JSON to predictions in JSON: the steps that /predict, /predict/batch and V1 share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import orjson

from modelyard_runtime.dataplane.registry import ServedModel
from modelyard_runtime.errors import BadRequest, WrongInput
from modelyard_runtime.formats.base import Array, Model, Rows
from modelyard_runtime.protocols.inputs import parse_instances, parse_object, rows_of_features, rows_of_instances
from modelyard_runtime.protocols.large import LARGE_BYTES, parse_large
from modelyard_runtime.protocols.route import Answer, Call, Parts
from modelyard_runtime.telemetry.statistics import Look, Stages

__all__ = ["MANY_ROWS", "ONE_ROW", "Body", "Shape", "answer_rows"]


@dataclass(frozen=True)
class Shape:
    """How rows are asked: one of them, which gets one prediction, or a list of them, which gets a list."""

    field: str
    example: str
    to_rows: Callable[[Model, Any], Rows]
    single: bool


ONE_ROW = Shape("features", "[1.0, 2.0]", rows_of_features, single=True)
MANY_ROWS = Shape("instances", "[[1.0, 2.0]]", rows_of_instances, single=False)

Body: TypeAlias = Callable[[ServedModel, Stages, bytes], bytes]
"""Makes an answer's body around the predictions, which are JSON already."""


async def answer_rows(parts: Parts, shape: Shape, body: Body, call: Call) -> Answer:
    """Answer with the predictions for the rows in a request's body. Raises RequestError.

    The model is the one that the call has by now, as its path names it; else the one that the body names.
    """
    large = len(call.body) > LARGE_BYTES
    if large:
        request = await asyncio.to_thread(parse_large, call.body)
    elif shape.single:
        request = parse_object(call.body)
    else:
        request = parse_instances(call.body, parts.floats)
    served = call.served
    if served is None:
        served = call.served = parts.registry.resolve(_model_name(request))
    try:
        given = request[shape.field]
    except KeyError:
        raise _lacking(shape, request) from None
    rows = await asyncio.to_thread(shape.to_rows, served.model, given) if large else shape.to_rows(served.model, given)
    stages = call.stages
    stages.on_parsed(len(rows))
    if _use_cache(request):
        look = stages.look = Look()
        # Not a lambda: what one refers to would cost every request a cell for each variable.
        compute = partial(_compute, parts, shape, call, served, rows)
        answer = await parts.answers.get(served, shape.field, {"": rows}, compute, deadline=call.deadline, look=look)
    else:
        # Not by _compute: what most requests ask for is answered with a coroutine less.
        predictions = await parts.compute.predict(served.model, rows, deadline=call.deadline, on_start=stages.on_start)
        stages.on_computed()
        answer = await asyncio.to_thread(_encode, predictions, shape) if large else _encode(predictions, shape)
    return Answer(body(served, stages, answer))


async def _compute(parts: Parts, shape: Shape, call: Call, served: ServedModel, rows: Rows) -> bytes:
    """Return the predictions as JSON, for the cache."""
    stages = call.stages
    predictions = await parts.compute.predict(served.model, rows, deadline=call.deadline, on_start=stages.on_start)
    stages.on_computed()
    if len(call.body) > LARGE_BYTES:
        return await asyncio.to_thread(_encode, predictions, shape)
    return _encode(predictions, shape)


def _lacking(shape: Shape, request: dict[str, Any]) -> BadRequest:
    got = ", ".join(sorted(str(key)[:40] for key in request)[:8]) or "nothing"
    return BadRequest(f'the body lacks {shape.field}; it has {got}. Send {{"{shape.field}": {shape.example}}}')


def _encode(predictions: Array, shape: Shape) -> bytes:
    """Encode predictions in JSON's own types; tolist leaves nothing of numpy, whatever the dtype."""
    values = predictions.tolist()
    return orjson.dumps(values[0] if shape.single else values, option=orjson.OPT_SERIALIZE_NUMPY, default=str)


def _model_name(request: dict[str, Any]) -> str | None:
    name = request.get("model_name")
    if name is not None and type(name) is not str:
        raise WrongInput("model_name needs to be a string")
    return name


def _use_cache(request: dict[str, Any]) -> bool:
    """Whether the answer may come from the cache, and go there. Raises WrongInput."""
    use = request.get("use_cache", False)
    if type(use) is not bool:
        raise WrongInput("use_cache needs to be true or false")
    return use
