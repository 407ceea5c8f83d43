"""Inference by the Open Inference Protocol over HTTP: POST /v2/models/{m}[/versions/{v}]/infer, as raw ASGI."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import orjson

from modelyard_runtime.errors import BadRequest, UnknownModel
from modelyard_runtime.formats.base import Array
from modelyard_runtime.observe.statistics import Stages
from modelyard_runtime.protocols.hot import Answer, Call, HotRoute, Parts
from modelyard_runtime.protocols.large import LARGE_BYTES
from modelyard_runtime.protocols.v2.bind import bind_inputs, bind_outputs, present
from modelyard_runtime.protocols.v2.datatypes import datatype_of, to_json, to_raw
from modelyard_runtime.protocols.v2.request import InferRequest, parse_infer
from modelyard_runtime.serving.compute import Compute
from modelyard_runtime.serving.limits import Receive, Scope, Send
from modelyard_runtime.serving.registry import Registry, ServedModel

__all__ = ["InferApp", "compute_outputs", "find_infer", "resolve_version"]

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
    compute: Compute, served: ServedModel, request: InferRequest, *, deadline: float, arrived: float, stages: Stages
) -> dict[str, Array]:
    """Return the outputs that a request asks for, by name, in its order. Raises RequestError.

    `arrived` and `deadline` are times of the event loop's clock; the request's own timeout only shortens it.
    """
    tensors, rows = bind_inputs(served.model, request.inputs)
    wanted = bind_outputs(served.model, request)
    if request.timeout is not None:
        deadline = min(deadline, arrived + request.timeout)
    stages.on_parsed(rows)
    outputs = await compute.infer(served.model, tensors, wanted, deadline=deadline, on_start=stages.on_start)
    stages.on_computed()
    names = wanted or tuple(outputs)
    return present(served.model, {name: outputs[name] for name in names})


class InferApp(HotRoute):
    """Answers inference requests of REST."""

    def __init__(self, parts: Parts) -> None:
        super().__init__("v2", parts)

    async def __call__(self, name: str, version: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for a model, and a version where the path gives one."""

        async def handle(call: Call) -> Answer:
            call.served = resolve_version(self._parts.registry, name, version)
            length = _header_length(call)
            large = len(call.body) > LARGE_BYTES
            if large:
                request = await asyncio.to_thread(parse_infer, call.body, length, call.served.model)
            else:
                request = parse_infer(call.body, length, call.served.model)
            outputs = await compute_outputs(
                self._parts.compute,
                call.served,
                request,
                deadline=call.deadline,
                arrived=call.arrived,
                stages=call.stages,
            )
            if large:
                return await asyncio.to_thread(_encode, call.served, request, outputs)
            return _encode(call.served, request, outputs)

        await self.respond(handle, scope, receive, send)


def _header_length(call: Call) -> int | None:
    values = [value for key, value in call.headers if key == _LENGTH]
    if not values:
        return None
    if len(values) > 1 or len(values[0]) > 20 or not values[0].isdigit():
        raise BadRequest("Inference-Header-Content-Length needs to be one number: the bytes of the JSON")
    return int(values[0])


def _encode(served: ServedModel, request: InferRequest, outputs: dict[str, Array]) -> Answer:
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
    body["outputs"] = described
    text = orjson.dumps(body)
    if not raw:
        return Answer(text, (_JSON,))
    return Answer(b"".join((text, *raw)), (_BINARY, (_LENGTH, b"%d" % len(text))))
