"""Inference requests and responses of gRPC: from and to messages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelyard_runtime.dataplane.registry import ServedModel
from modelyard_runtime.errors import BadRequest
from modelyard_runtime.formats.base import Array
from modelyard_runtime.protocols.v2.datatypes import check_shape, datatype_of, from_raw, to_raw
from modelyard_runtime.protocols.v2.request import (
    MAX_TENSORS,
    InferRequest,
    OutputRequest,
    check_datatype,
    refuse_unsupported,
    timeout_of,
)

__all__ = ["parameters_of", "read_request", "write_response"]

_FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where the protocol puts each datatype; FP16 and BF16 are raw only."""


def read_request(message: Any) -> InferRequest:
    """Read a ModelInferRequest. Raises BadRequest, Unsupported.

    `raw_input_contents` covers every input, or is empty; then each has its `contents`.
    """
    raw = message.raw_input_contents
    if not message.inputs:
        raise BadRequest("the request has no inputs")
    if len(message.inputs) > MAX_TENSORS or len(message.outputs) > MAX_TENSORS:
        raise BadRequest(f"the request has more than {MAX_TENSORS} inputs or outputs; send fewer")
    if raw and len(raw) != len(message.inputs):
        raise BadRequest(f"raw_input_contents has {len(raw)} entries, and there are {len(message.inputs)} inputs")
    inputs: dict[str, Array] = {}
    for index, tensor in enumerate(message.inputs):
        name = tensor.name
        shown = name[:100]
        if not name:
            raise BadRequest(f"inputs[{index}] has no name")
        if name in inputs:
            raise BadRequest(f"input {shown} is there twice")
        if tensor.parameters:
            refuse_unsupported(parameters_of(tensor.parameters))
        datatype = check_datatype(tensor.datatype, shown)
        shape = check_shape(list(tensor.shape), shown)
        if not raw:
            inputs[name] = _from_contents(tensor.contents, datatype, shape, shown)
        elif tensor.HasField("contents"):
            raise BadRequest(f"input {shown} has contents beside raw_input_contents; send one of them")
        else:
            inputs[name] = from_raw(raw[index], datatype, shape, shown)
    outputs = []
    for output in message.outputs:
        refuse_unsupported(parameters_of(output.parameters))
        outputs.append(OutputRequest(output.name))
    parameters = parameters_of(message.parameters) if message.parameters else {}
    return InferRequest(
        inputs=inputs,
        outputs=outputs,
        id=message.id or None,
        binary=bool(raw),
        timeout=timeout_of(parameters.get("timeout")),
        parameters=parameters,
    )


def parameters_of(parameters: Any) -> Mapping[str, Any]:
    """Return parameters by name, from the map of a message."""
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
        for name, value in parameters.items()
    }


def _from_contents(contents: Any, datatype: str, shape: tuple[int, ...], name: str) -> Array:
    field = _FIELDS.get(datatype)
    if field is None:
        raise BadRequest(f"input {name} is {datatype}, which has no form in contents; send raw_input_contents")
    values: Sequence[Any] = getattr(contents, field)
    others = [found.name for found, _ in contents.ListFields() if found.name != field]
    if others:
        raise BadRequest(f"input {name} is {datatype}, which goes to {field}, and it has {others[0]}")
    count = math.prod(shape)
    if len(values) != count:
        raise BadRequest(f"input {name} has {len(values)} elements, and its shape {list(shape)} has {count}")
    if datatype == "BYTES":
        text = np.empty(count, dtype=object)
        try:
            text[:] = [value.decode("utf-8") for value in values]
        except UnicodeDecodeError:
            raise BadRequest(f"input {name} has an element that is not UTF-8, and the model takes text") from None
        return text.reshape(shape)
    wide = np.array(values, dtype=_wide(field))
    narrow = wide.astype(_wide(field) if field not in ("int_contents", "uint_contents") else datatype.lower())
    if not np.array_equal(wide, narrow, equal_nan=wide.dtype.kind == "f"):
        raise BadRequest(f"input {name} has numbers that {datatype} can't hold")
    return narrow.reshape(shape)


def _wide(field: str) -> str:
    return {
        "bool_contents": "?",
        "int_contents": "i4",
        "int64_contents": "i8",
        "uint_contents": "u4",
        "uint64_contents": "u8",
        "fp32_contents": "f4",
        "fp64_contents": "f8",
    }[field]


def write_response(
    response: Any, served: ServedModel, request: InferRequest, outputs: Mapping[str, Array], *, cached: bool | None
) -> None:
    """Fill a ModelInferResponse: raw where the request was, or where a datatype has no other form.

    `cached` is told to a client that has asked for the cache, and None otherwise.
    """
    response.model_name = served.name
    response.model_version = served.version
    if request.id:
        response.id = request.id
    if cached is not None:
        response.parameters["cached"].bool_param = cached
    raw = request.binary or any(datatype_of(values) not in _FIELDS for values in outputs.values())
    for name, values in outputs.items():
        datatype = datatype_of(values)
        tensor = response.outputs.add(name=name, datatype=datatype, shape=values.shape)
        if raw:
            response.raw_output_contents.append(to_raw(values))
        elif datatype == "BYTES":
            tensor.contents.bytes_contents.extend(str(item).encode() for item in values.reshape(-1).tolist())
        else:
            getattr(tensor.contents, _FIELDS[datatype]).extend(values.reshape(-1).tolist())
