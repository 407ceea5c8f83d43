"""The V1 protocol of TensorFlow Serving and KServe: POST /v1/models/{m}:predict."""

from __future__ import annotations

from collections.abc import Awaitable

from modelyard_runtime.dataplane.call import Call
from modelyard_runtime.dataplane.registry import ServedModel
from modelyard_runtime.http.response import Header, Response
from modelyard_runtime.protocols.inference import InferenceContext, InferenceRoute
from modelyard_runtime.protocols.json_reader import JsonReader
from modelyard_runtime.protocols.paths import ModelPath, find_model
from modelyard_runtime.protocols.row_protocol import MANY_ROWS, RowProtocol

__all__ = ["PREFIX", "SUFFIX", "find_v1_model", "v1_route"]

PREFIX = "/v1/models/"
SUFFIX = ":predict"


def find_v1_model(path: str) -> ModelPath | None:
    """Return the model that a prediction's path names; None for another path."""
    return find_model(path, PREFIX, SUFFIX)


def v1_route(context: InferenceContext, reader: JsonReader, model: ModelPath) -> InferenceRoute:
    """Return the route that answers `{"instances": [...]}`, rows as lists or named values, with predictions.

    With `"use_cache": true` beside the instances, `"cached"` in the answer says whether it came from the cache.
    """
    protocol = RowProtocol(context.plane, reader, MANY_ROWS, _body)

    def handle(call: Call, headers: list[Header], body: bytes) -> Awaitable[Response]:
        context.plane.resolve(call, *model)
        return protocol.respond(call, body)

    return InferenceRoute("v1", context, handle, model.template(PREFIX, SUFFIX), model.names)


def _body(call: Call, served: ServedModel, predictions: bytes) -> bytes:
    if call.cached is None:
        return b'{"predictions":' + predictions + b"}"
    return b'{"predictions":%b,"cached":%b}' % (predictions, b"true" if call.cached else b"false")
