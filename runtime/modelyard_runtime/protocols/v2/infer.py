"""Inference by the Open Inference Protocol: what REST and gRPC share, and POST /v2/models/{m}[/versions/{v}]/infer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import orjson

from modelyard_runtime.dataplane.call import Call
from modelyard_runtime.dataplane.dataplane import DataPlane
from modelyard_runtime.dataplane.offload import LOOP_BYTES, offload
from modelyard_runtime.dataplane.registry import ServedModel
from modelyard_runtime.errors import BadRequest
from modelyard_runtime.formats.base import Array
from modelyard_runtime.http.response import JSON, Header, Response
from modelyard_runtime.protocols.inference import InferenceContext, InferenceRoute
from modelyard_runtime.protocols.json_reader import JsonReader
from modelyard_runtime.protocols.paths import ModelPath, find_model
from modelyard_runtime.protocols.v2.bind import bind_inputs, bind_outputs, present
from modelyard_runtime.protocols.v2.datatypes import datatype_of, to_json, to_raw
from modelyard_runtime.protocols.v2.request import InferRequest, flag_of, parse_infer

__all__ = ["PREFIX", "SUFFIX", "compute_outputs", "find_v2_model", "v2_route"]

PREFIX = "/v2/models/"
SUFFIX = "/infer"
_LENGTH = b"inference-header-content-length"
_BINARY: Header = (b"content-type", b"application/octet-stream")


def find_v2_model(path: str) -> ModelPath | None:
    """Return the model that an inference path names; None for another path."""
    return find_model(path, PREFIX, SUFFIX)


async def compute_outputs(
    plane: DataPlane, call: Call, served: ServedModel, request: InferRequest
) -> Mapping[str, Array]:
    """Return the outputs that a request asks for, by name, in its order. Raises RequestError.

    The request's own timeout only shortens the call's. Where the request asks for the cache, outputs may be another's
    as well, and `call.cached` says so: they are read only.
    """
    tensors, rows = bind_inputs(served.model, request.inputs)
    wanted = bind_outputs(served.model, request)
    if request.timeout is not None:
        call.limit(request.timeout)
    call.on_parsed(rows)
    if request.parameters and flag_of(request.parameters, "use_cache"):
        compute = partial(_compute_copies, plane, call, served, tensors, wanted)
        return await plane.cached(call, served, wanted, tensors, compute)
    return present(served.model, await plane.infer(call, served, tensors, wanted))


async def _compute_copies(
    plane: DataPlane, call: Call, served: ServedModel, tensors: Mapping[str, Array], wanted: tuple[str, ...]
) -> dict[str, Array]:
    """Return outputs for the cache: a row of a batch would keep all of the batch, and models use memory again."""
    outputs = present(served.model, await plane.infer(call, served, tensors, wanted))
    return {name: values.copy() for name, values in outputs.items()}


def v2_route(context: InferenceContext, reader: JsonReader, model: ModelPath) -> InferenceRoute:
    """Return the route that answers inference requests for a model, and a version where the path gives one."""
    plane = context.plane

    async def handle(call: Call, headers: list[Header], body: bytes) -> Response:
        served = plane.resolve(call, *model)
        length = _header_length(headers)
        if len(body) > LOOP_BYTES:
            request = await offload(len(body), parse_infer, body, length, served.model, reader)
        else:
            request = parse_infer(body, length, served.model, reader)
        outputs = await compute_outputs(plane, call, served, request)
        if len(body) > LOOP_BYTES:
            return await offload(len(body), _encode, served, request, outputs, call.cached)
        return _encode(served, request, outputs, call.cached)

    return InferenceRoute("v2", context, handle, model.template(PREFIX, SUFFIX), model.names)


def _header_length(headers: list[Header]) -> int | None:
    values = [value for key, value in headers if key == _LENGTH]
    if not values:
        return None
    if len(values) > 1 or len(values[0]) > 20 or not values[0].isdigit():
        raise BadRequest("Inference-Header-Content-Length needs to be one number: the bytes of the JSON")
    return int(values[0])


def _encode(served: ServedModel, request: InferRequest, outputs: Mapping[str, Array], cached: bool | None) -> Response:
    wishes = {output.name: output.binary for output in request.outputs}
    described: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for name, values in outputs.items():
        binary = wishes.get(name)
        tensor: dict[str, Any] = {"name": name, "shape": values.shape, "datatype": datatype_of(values)}
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
        return Response(200, (JSON,), text)
    return Response(200, (_BINARY, (_LENGTH, b"%d" % len(text))), b"".join((text, *raw)))
