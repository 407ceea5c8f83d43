"""The most usual of inference requests, one row of numbers for a model of rows, read and answered in fewer steps.

Only what is plainly that is read here, and what comes of it is what the general way would give; for all else the answer
is None, and the general way decides (protocols/v2/request.py, bind.py).
"""

from __future__ import annotations

import array
from typing import NamedTuple

import numpy as np
import orjson

from modelyard_runtime.formats.base import Model, Rows, RowsModel
from modelyard_runtime.protocols.v2.bind import UNNAMED

__all__ = ["SingleRow", "read_single"]

_MAX_BYTES = 4096
"""A row that is longer is worth no haste."""


class SingleRow(NamedTuple):
    """A row of shape (1, features), and the request's id where it has one."""

    row: Rows
    id: str | None


def read_single(body: bytes, model: Model) -> SingleRow | None:
    """Return the only row of a request in JSON for all outputs that the model gives unasked."""
    if len(body) > _MAX_BYTES or model.text_features or getattr(type(model), "infer", None) is not RowsModel.infer:
        return None
    try:
        data = orjson.loads(body)
        (tensor,) = data["inputs"]
        request_id = data.get("id")
        values = tensor["data"]
        if len(values) == 1 and type(values[0]) is list:
            (values,) = values
        if (
            len(data) != 1 + ("id" in data)
            or not (request_id is None or type(request_id) is str)
            or type(data["inputs"]) is not list
            or len(tensor) != 4
            or tensor["datatype"] != "FP64"
            or tensor["shape"] != [1, len(values)]
            or any(type(size) is not int for size in tensor["shape"])  # 1.0 and true are no sizes
            or type(values) is not list
            or not _fits(model, tensor["name"], len(values))
        ):
            return None
        row = np.frombuffer(array.array("d", values)).reshape(1, len(values))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None  # no JSON (a ValueError), or of another form
    return SingleRow(row, request_id)


def _fits(model: Model, name: object, features: int) -> bool:
    spec = model.inputs[0]
    if spec.datatype != "FP64" or spec.shape not in ((-1, features), (-1, -1)) or not features:
        return False
    return name == spec.name or (name in UNNAMED and name not in (model.feature_names or ()))
