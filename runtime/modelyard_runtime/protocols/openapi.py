"""OpenAPI of the routes that FastAPI does not see: written by hand, since raw ASGI carries no types."""

from __future__ import annotations

from typing import Any

__all__ = ["PREDICT_PATHS", "PREDICT_SCHEMAS", "USE_CACHE"]

_ROW: dict[str, Any] = {
    "title": "Row",
    "description": "Numbers in the model's order, or by name where the model knows the names of its features.",
    "oneOf": [
        {"type": "array", "items": {"type": "number"}, "minItems": 1, "example": [5.1, 3.5, 1.4, 0.2]},
        {"type": "object", "additionalProperties": {"type": "number"}},
    ],
}
_PREDICTION: dict[str, Any] = {
    "title": "Prediction",
    "description": "A number or a label; a list of them for a model of several outputs.",
    "anyOf": [{"type": "number"}, {"type": "string"}, {"type": "boolean"}, {"type": "array", "items": {}}],
}
_NAME: dict[str, Any] = {"type": "string", "description": "May be left out where one model is served."}
USE_CACHE: dict[str, Any] = {
    "type": "boolean",
    "default": False,
    "description": "Take the answer from the cache where it is there, and keep it there.",
}
_ABOUT_ANSWER: dict[str, Any] = {
    "model_name": {"type": "string"},
    "model_version": {"type": "string"},
    "cached": {"type": "boolean"},
    "latency_ms": {"type": "number", "description": "From the request's arrival to this answer."},
}

PREDICT_SCHEMAS: dict[str, Any] = {
    "Row": _ROW,
    "Prediction": _PREDICTION,
    "PredictRequest": {
        "title": "PredictRequest",
        "type": "object",
        "required": ["features"],
        "properties": {"model_name": _NAME, "features": {"$ref": "#/components/schemas/Row"}, "use_cache": USE_CACHE},
    },
    "PredictResponse": {
        "title": "PredictResponse",
        "type": "object",
        "required": ["prediction", *_ABOUT_ANSWER],
        "properties": {"prediction": {"$ref": "#/components/schemas/Prediction"}, **_ABOUT_ANSWER},
    },
    "BatchRequest": {
        "title": "BatchRequest",
        "type": "object",
        "required": ["instances"],
        "properties": {
            "model_name": _NAME,
            "instances": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Row"}},
            "use_cache": USE_CACHE,
        },
    },
    "BatchResponse": {
        "title": "BatchResponse",
        "type": "object",
        "required": ["predictions", *_ABOUT_ANSWER],
        "properties": {
            "predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}},
            **_ABOUT_ANSWER,
        },
    },
}

_ERRORS = {
    "400": "No body, no JSON, or a field is missing.",
    "404": "No such model.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is compressed.",
    "422": "A field has the wrong type, shape or value.",
    "429": "The queue is full; Retry-After says when to come back.",
    "500": "The model failed.",
    "503": "The model is not ready; Retry-After says when to come back.",
    "504": "The model did not answer in time.",
}


def _operation(name: str, summary: str, request: str, response: str) -> dict[str, Any]:
    def content(schema: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}

    return {
        "post": {
            "tags": ["predict"],
            "operationId": name,
            "summary": summary,
            "requestBody": {"required": True, "content": content(request)},
            "responses": {
                "200": {"description": "The answer.", "content": content(response)},
                **{code: {"description": text, "content": content("ErrorBody")} for code, text in _ERRORS.items()},
            },
        }
    }


PREDICT_PATHS: dict[str, Any] = {
    "/predict": _operation("predict", "Predict one row", "PredictRequest", "PredictResponse"),
    "/predict/batch": _operation("predict_batch", "Predict many rows", "BatchRequest", "BatchResponse"),
}
