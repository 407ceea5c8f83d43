"""The reader of JSON bodies. orjson alone decides what JSON is; bulk numbers may be read another way, to the same end.

A list of numbers becomes an array without an object for each (json_numbers.py), where that is a shortcut and nothing
else: what is not plainly good, or is not JSON, is orjson's to read or refuse.
"""

from __future__ import annotations

from typing import Any

import orjson

from modelyard_runtime.dataplane.offload import LOOP_BYTES, offload
from modelyard_runtime.errors import BadRequest, WrongInput
from modelyard_runtime.protocols.json_numbers import NumberReader
from modelyard_runtime.protocols.json_pieces import object_in_pieces

__all__ = ["JsonReader", "kind_of", "parse_json", "parse_object"]

_MIN_BYTES = 512
"""Below this, numbers are read as fast by way of objects."""


def parse_json(text: bytes) -> Any:
    """Return the value of a JSON text. Raises BadRequest; NaN and Infinity are not JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise BadRequest(f"the body is not valid JSON: {exc} (NaN and Infinity are not JSON)") from None


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body is. Raises BadRequest (no body, no JSON), WrongInput."""
    if not body:
        raise BadRequest('the body is empty; send JSON, {"features": [1.0, 2.0]} for instance')
    data = parse_json(body)
    if not isinstance(data, dict):
        raise WrongInput(f'the body is {kind_of(data)}; send an object, {{"features": [1.0, 2.0]}} for instance')
    return data


class JsonReader:
    """Reads the JSON bodies of inference requests. For the event loop's thread."""

    def __init__(self, *, shortcuts: bool = True) -> None:
        """Without `shortcuts` every number is read by orjson."""
        self._shortcuts = shortcuts
        self._numbers = NumberReader()

    async def object_with_rows(self, body: bytes) -> dict[str, Any]:
        """Return an object, its `instances` as an array of shape (rows, columns) where they are rows of numbers.

        Raises what `parse_object` raises.
        """
        if not self._shortcuts or len(body) < _MIN_BYTES:
            return await offload(len(body), parse_object, body)
        if len(body) > LOOP_BYTES:
            return await offload(len(body), _large_object, body)
        return self._numbers.object_with_rows(body, "instances") or parse_object(body)

    def value_with_tensors(self, text: bytes) -> Any:
        """Return a JSON value; in an inference request of OIP v2, `data` of FP32 and FP64 may be an array of floats.

        Such an array has the shape (elements,). Raises BadRequest.
        """
        if self._shortcuts and _MIN_BYTES <= len(text) <= LOOP_BYTES:
            found = self._numbers.object_with_tensors(text)
            if found is not None:
                return found
        return parse_json(text)


def _large_object(body: bytes) -> dict[str, Any]:
    """Return what `parse_object` does; in a thread, where it would else hold the interpreter's lock for long."""
    return object_in_pieces(body) or parse_object(body)


def kind_of(value: Any) -> str:
    """Return how a value of JSON is called in a message."""
    if value is None:
        return "null"
    return {dict: "an object", list: "a list", str: "a string", bool: "true or false"}.get(type(value), "a number")
