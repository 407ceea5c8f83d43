"""Inference by the Open Inference Protocol over HTTP: POST /v2/models/{m}[/versions/{v}]/infer, as raw ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from modelyard_runtime.dataplane.registry import Registry, ServedModel
from modelyard_runtime.errors import BadRequest, UnknownModel
from modelyard_runtime.formats.base import Array
from modelyard_runtime.http.response import Header
from modelyard_runtime.protocols.large import LARGE_BYTES
from modelyard_runtime.protocols.numbers import FloatParser
from modelyard_runtime.protocols.route import Answer, Call, HotRoute, Parts
from modelyard_runtime.protocols.v2 import envelope_binary, envelope_json
from modelyard_runtime.protocols.v2.bind import bind_inputs, bind_outputs, present
from modelyard_runtime.protocols.v2.datatypes import datatype_of, json_of, to_json, to_raw
from modelyard_runtime.protocols.v2.envelope import Enclosed
from modelyard_runtime.protocols.v2.request import InferRequest, flag_of, parse_infer
from modelyard_runtime.telemetry.statistics import Look, Stages

__all__ = ["Envelopes", "compute_outputs", "find_infer", "infer_route", "resolve_version"]

_PREFIX = "/v2/models/"
_SUFFIX = "/infer"
_LENGTH = b"inference-header-content-length"
_JSON = (b"content-type", b"application/json")
_BINARY = (b"content-type", b"application/octet-stream")


def find_infer(path: str) -> tuple[str, str | None] | None:
    """Return the model and version that an inference path names; None for another path."""
    if not (path.startswith(_PREFIX) and path.endswith(_SUFFIX)):
        return None
    parts = path[len(_PREFIX) : -len(_SUFFIX)].split("/")
    if len(parts) == 1 and parts[0]:
        return parts[0], None
    if len(parts) == 3 and parts[0] and parts[1] == "versions":
        return parts[0], parts[2]
    return None


def resolve_version(registry: Registry, name: str, version: str | None) -> ServedModel:
    """Return the model that a path names. Raises UnknownModel for another version too, NotReady."""
    served = registry.resolve(name)
    if version and version != served.version:
        raise UnknownModel(
            f"no version {version[:100]!r} of the model {served.name} is served here; it is {served.version}"
        )
    return served


async def compute_outputs(
    parts: Parts, served: ServedModel, request: InferRequest, *, deadline: float, arrived: float, stages: Stages
) -> Mapping[str, Array]:
    """Return the outputs that a request asks for, by name, in its order. Raises RequestError.

    `arrived` and `deadline` are times of the event loop's clock; the request's own timeout only shortens it. Where the
    request asks for the cache, outputs may be another's as well, and `stages.cached` says so: they are read only.
    """
    tensors, rows = bind_inputs(served.model, request.inputs)
    wanted = bind_outputs(served.model, request)
    if request.timeout is not None:
        deadline = min(deadline, arrived + request.timeout)
    stages.on_parsed(rows)
    if request.parameters and flag_of(request.parameters, "use_cache"):
        return await _cached(parts, served, tensors, wanted, deadline=deadline, stages=stages)
    outputs = await parts.compute.infer(served.model, tensors, wanted, deadline=deadline, on_start=stages.on_start)
    return _presented(served, wanted, outputs, stages)


async def _cached(
    parts: Parts,
    served: ServedModel,
    tensors: Mapping[str, Array],
    wanted: tuple[str, ...],
    *,
    deadline: float,
    stages: Stages,
) -> dict[str, Array]:
    async def compute() -> dict[str, Array]:
        outputs = await parts.compute.infer(served.model, tensors, wanted, deadline=deadline, on_start=stages.on_start)
        # Copies: a row of a batch would keep all of the batch, and the model may use its own memory again.
        return {name: values.copy() for name, values in _presented(served, wanted, outputs, stages).items()}

    stages.look = Look()
    return await parts.answers.get(served, wanted, tensors, compute, deadline=deadline, look=stages.look)


def _presented(
    served: ServedModel, wanted: Sequence[str], outputs: Mapping[str, Array], stages: Stages
) -> dict[str, Array]:
    stages.on_computed()
    names = wanted or tuple(outputs)
    return present(served.model, {name: outputs[name] for name in names})


class Envelopes:
    """The envelopes of the last requests over HTTP, without and with a binary tensor. For the event loop's thread."""

    def __init__(self, parser: FloatParser) -> None:
        """`parser` is that of the same thread."""
        self.json = envelope_json.JsonEnvelopes(parser)
        self.binary = envelope_binary.BinaryEnvelopes()


def infer_route(parts: Parts, envelopes: Envelopes, name: str, version: str | None) -> HotRoute:
    """Answer inference requests for a model, and a version where the path gives one; routes share `envelopes`."""

    async def handle(call: Call) -> Answer:
        served = call.served = resolve_version(parts.registry, name, version)
        length = _header_length(call)
        if length is None:
            enclosed = envelopes.json.read(call.body, served)
        else:
            enclosed = envelopes.binary.read(call.body, length, served)
        if enclosed is not None:
            return await _answer_enclosed(parts, enclosed, call)
        large = len(call.body) > LARGE_BYTES
        if large:
            request = await asyncio.to_thread(parse_infer, call.body, length, served.model)
        else:
            request = parse_infer(call.body, length, served.model, parts.floats)
        outputs = await compute_outputs(
            parts, served, request, deadline=call.deadline, arrived=call.arrived, stages=call.stages
        )
        cached = call.stages.cached
        if large:
            return await asyncio.to_thread(_encode, served, request, outputs, cached)
        if length is None:
            envelopes.json.learn(call.body, served, request)
        else:
            envelopes.binary.learn(call.body, length, served, request)
        return _encode(served, request, outputs, cached)

    if version is None:
        return HotRoute("v2", parts, handle, "/v2/models/{model}/infer", {"model": name})
    names = {"model": name, "version": version}
    return HotRoute("v2", parts, handle, "/v2/models/{model}/versions/{version}/infer", names)


async def _answer_enclosed(parts: Parts, enclosed: Enclosed, call: Call) -> Answer:
    served, envelope, stages = enclosed.served, enclosed.envelope, call.stages
    stages.on_parsed(len(enclosed.rows))
    predictions = await parts.compute.predict(
        served.model, enclosed.rows, deadline=call.deadline, on_start=stages.on_start
    )
    stages.on_computed()
    form = envelope_binary if envelope.binary else envelope_json
    data = to_raw(predictions) if envelope.binary else json_of(predictions)
    if (known := form.answer_of(enclosed, predictions, data)) is not None:
        return Answer(known, _binary_headers(len(known) - len(data)) if envelope.binary else (_JSON,))
    outputs = present(served.model, {"prediction": predictions})
    request = InferRequest(inputs={}, id=enclosed.id, binary=envelope.binary)
    if outputs["prediction"] is predictions:
        # In JSON, each answer gets the id that its request brought; beside a binary tensor, the id is the envelope's.
        about = request if envelope.binary else request._replace(id=None)
        form.keep_form(envelope, _encode(served, about, outputs, None).payload, predictions, data)
    return _encode(served, request, outputs, None)


def _header_length(call: Call) -> int | None:
    values = [value for key, value in call.headers if key == _LENGTH]
    if not values:
        return None
    if len(values) > 1 or len(values[0]) > 20 or not values[0].isdigit():
        raise BadRequest("Inference-Header-Content-Length needs to be one number: the bytes of the JSON")
    return int(values[0])


def _encode(served: ServedModel, request: InferRequest, outputs: Mapping[str, Array], cached: bool | None) -> Answer:
    wishes = {output.name: output.binary for output in request.outputs}
    described: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for name, values in outputs.items():
        binary = wishes.get(name)
        tensor: dict[str, Any] = {"name": name, "shape": list(values.shape), "datatype": datatype_of(values)}
        if request.binary if binary is None else binary:
            data = to_raw(values)
            raw.append(data)
            tensor["parameters"] = {"binary_data_size": len(data)}
        else:
            tensor["data"] = to_json(values if values.ndim else np.atleast_1d(values))
        described.append(tensor)
    body: dict[str, Any] = {"model_name": served.name, "model_version": served.version}
    if request.id is not None:
        body["id"] = request.id
    if cached is not None:
        body["parameters"] = {"cached": cached}
    body["outputs"] = described
    text = orjson.dumps(body)
    if not raw:
        return Answer(text, (_JSON,))
    return Answer(b"".join((text, *raw)), _binary_headers(len(text)))


def _binary_headers(length: int) -> tuple[Header, ...]:
    return _BINARY, (_LENGTH, b"%d" % length)
