"""OpenAPI of the inference routes of OIP v2 and V1: written by hand, since raw ASGI carries no types."""

from __future__ import annotations

from typing import Any

from modelyard_runtime.protocols.openapi import USE_CACHE
from modelyard_runtime.protocols.v2.datatypes import DATATYPES

__all__ = ["INFER_PATHS", "INFER_SCHEMAS"]

_PARAMETERS: dict[str, Any] = {"type": "object", "additionalProperties": True}
_SHAPE: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_DATA: dict[str, Any] = {
    "type": "array",
    "items": {},
    "description": "Row-major, nested or flat; absent where parameters.binary_data_size tells of raw bytes.",
}
_DATATYPE: dict[str, Any] = {"type": "string", "enum": list(DATATYPES)}
_TENSOR_FIELDS: dict[str, Any] = {
    "name": {"type": "string"},
    "shape": _SHAPE,
    "datatype": _DATATYPE,
    "parameters": _PARAMETERS,
    "data": _DATA,
}

INFER_SCHEMAS: dict[str, Any] = {
    "InferTensor": {
        "title": "InferTensor",
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": _TENSOR_FIELDS,
    },
    "InferRequest": {
        "title": "InferRequest",
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {
                **_PARAMETERS,
                "description": "binary_data_output: raw outputs unless they say otherwise; timeout: microseconds; "
                "use_cache: the answer may come from the cache, and is kept there.",
                "properties": {
                    "binary_data_output": {"type": "boolean", "default": False},
                    "timeout": {"type": "integer", "minimum": 0},
                    "use_cache": {"type": "boolean", "default": False},
                },
            },
            "inputs": {
                "type": "array",
                "minItems": 1,
                "items": {"$ref": "#/components/schemas/InferTensor"},
                "description": "The model's inputs, or one of shape [rows] for each of its named features.",
            },
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string"}, "parameters": _PARAMETERS},
                },
                "description": "The outputs to return; absent: all but those made on request.",
            },
        },
    },
    "InferResponse": {
        "title": "InferResponse",
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": {
                "type": "object",
                "properties": {"cached": {"type": "boolean"}},
                "description": "There for requests with use_cache: whether the answer comes from the cache.",
            },
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/InferTensor"}},
        },
    },
    "V1Request": {
        "title": "V1Request",
        "type": "object",
        "required": ["instances"],
        "properties": {
            "instances": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Row"}},
            "use_cache": USE_CACHE,
        },
    },
    "V1Response": {
        "title": "V1Response",
        "type": "object",
        "required": ["predictions"],
        "properties": {
            "predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}},
            "cached": {
                "type": "boolean",
                "description": "There for requests with use_cache: whether the answer comes from the cache.",
            },
        },
    },
}

_ERRORS = {
    "400": "What was sent is not a request, or not one that the model takes.",
    "404": "No such model or version.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large, or inflates to too much.",
    "415": "The body is compressed, and neither with gzip nor deflate.",
    "429": "The queue is full; Retry-After says when to come back.",
    "500": "The model failed.",
    "503": "The model is not ready; Retry-After says when to come back.",
    "504": "The model did not answer in time.",
}
_LENGTH = {
    "in": "header",
    "name": "Inference-Header-Content-Length",
    "schema": {"type": "integer", "minimum": 0},
    "description": "The bytes of JSON ahead of raw tensors; 0: the body is one raw tensor; absent: all is JSON.",
}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _operation(tag: str, name: str, request: str, response: str, path: str, *, binary: bool) -> dict[str, Any]:
    raw: dict[str, Any] = (
        {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}} if binary else {}
    )
    errors = {**_ERRORS, "501": "A part of the protocol that this server does not have."} if binary else _ERRORS
    parameters = [
        {"in": "path", "name": part[1:-1], "required": True, "schema": {"type": "string"}}
        for part in path.replace(":", "/").split("/")
        if part.startswith("{")
    ]
    return {
        "post": {
            "tags": [tag],
            "operationId": name,
            "summary": "Infer" if binary else "Predict rows",
            "parameters": [*parameters, _LENGTH] if binary else parameters,
            "requestBody": {"required": True, "content": {**_json(request), **raw}},
            "responses": {
                "200": {"description": "The answer.", "content": {**_json(response), **raw}},
                **{code: {"description": text, "content": _json("ErrorBody")} for code, text in errors.items()},
            },
        }
    }


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for suffix, path in (("", "{name}"), ("_version", "{name}/versions/{version}")):
        infer = f"/v2/models/{path}/infer"
        predict = f"/v1/models/{path}:predict"
        paths[infer] = _operation("v2", f"infer{suffix}", "InferRequest", "InferResponse", infer, binary=True)
        paths[predict] = _operation("v1", f"predict_v1{suffix}", "V1Request", "V1Response", predict, binary=False)
    return paths


INFER_PATHS: dict[str, Any] = _paths()
