"""The seed API's inference: POST /predict and /predict/batch, from bytes to numpy to bytes."""

from __future__ import annotations

from functools import partial

import orjson

from modelyard_runtime.dataplane.call import Call
from modelyard_runtime.dataplane.registry import ServedModel
from modelyard_runtime.http.response import Header, Response
from modelyard_runtime.protocols.inference import InferenceContext, InferenceRoute
from modelyard_runtime.protocols.json_reader import JsonReader
from modelyard_runtime.protocols.row_protocol import MANY_ROWS, ONE_ROW, RowForm, RowProtocol

__all__ = ["predict_routes"]


def predict_routes(context: InferenceContext, reader: JsonReader) -> dict[str, InferenceRoute]:
    """Return the routes by path."""
    return {
        "/predict": _route(context, reader, "/predict", ONE_ROW, "prediction"),
        "/predict/batch": _route(context, reader, "/predict/batch", MANY_ROWS, "predictions"),
    }


def _route(context: InferenceContext, reader: JsonReader, path: str, form: RowForm, field: str) -> InferenceRoute:
    protocol = RowProtocol(context.plane, reader, form, partial(_body, field))

    async def handle(call: Call, headers: list[Header], body: bytes) -> Response:
        return await protocol.respond(call, body)

    return InferenceRoute("predict", context, handle, path, distinguishes_wrong_input=True)


def _body(field: str, call: Call, served: ServedModel, predictions: bytes) -> bytes:
    return orjson.dumps(
        {
            field: orjson.Fragment(predictions),
            "model_name": served.name,
            "model_version": served.version,
            "cached": call.cached is True,
            "latency_ms": round((call.clock() - call.arrived) / 1e6, 3),
        }
    )
