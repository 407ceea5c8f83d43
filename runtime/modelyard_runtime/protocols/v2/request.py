"""An inference request: its parts, whichever form it came in, and the parser of REST's (JSON and binary)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from modelyard_runtime.errors import BadRequest, Unsupported
from modelyard_runtime.formats.base import Array, Model
from modelyard_runtime.protocols.json_reader import JsonReader
from modelyard_runtime.protocols.v2.datatypes import DATATYPES, check_shape, from_json, from_raw, item_size

__all__ = [
    "MAX_TENSORS",
    "InferRequest",
    "OutputRequest",
    "check_datatype",
    "flag_of",
    "parse_infer",
    "refuse_unsupported",
    "timeout_of",
]

_UNSUPPORTED = {
    "shared_memory_region": "shared memory is not supported here; send the data itself",
    "classification": "classification of outputs is not supported here; ask for the output probabilities",
}
_DATATYPES = frozenset(DATATYPES)
_NO_PARAMETERS: Mapping[str, Any] = MappingProxyType({})
MAX_TENSORS = 100_000
"""Inputs, or outputs, of one request."""


class OutputRequest(NamedTuple):
    """An output that is asked for; `binary` is None where the request's default holds."""

    name: str
    binary: bool | None = None


class InferRequest(NamedTuple):
    """What a client asks: tensors by name, in the order in which they came."""

    inputs: Mapping[str, Array]
    outputs: Sequence[OutputRequest] = ()
    id: str | None = None
    binary: bool = False
    """Whether outputs go as raw bytes unless they say otherwise."""
    timeout: float | None = None
    """Seconds that the client gives for the answer."""
    parameters: Mapping[str, Any] = _NO_PARAMETERS


def parse_infer(body: bytes, header_length: int | None, model: Model, reader: JsonReader) -> InferRequest:
    """Parse a REST body, of which the first `header_length` bytes are JSON (None: all of it; 0: one raw tensor).

    Raises BadRequest, Unsupported. Source: the protocol's REST form and its binary tensor data extension.
    """
    if header_length is None:
        text, raw = body, memoryview(b"")
    elif header_length == 0:
        return InferRequest(_only_input(body, model), binary=True)
    elif header_length > len(body):
        raise BadRequest(f"Inference-Header-Content-Length is {header_length}, and the body has {len(body)} bytes")
    else:
        view = memoryview(body)
        text, raw = bytes(view[:header_length]), view[header_length:]
    data = reader.value_with_tensors(text)
    if type(data) is not dict:
        raise BadRequest('the body needs to be an object with "inputs"')
    parameters = _object(data.get("parameters"), "parameters")
    request_id = data.get("id")
    if request_id is not None and type(request_id) is not str:
        raise BadRequest("id needs to be a string")
    return InferRequest(
        inputs=_inputs(data, raw, missing=model.takes_missing),
        outputs=_outputs(data),
        id=request_id,
        binary=flag_of(parameters, "binary_data_output") or False,
        timeout=timeout_of(parameters.get("timeout")),
        parameters=parameters,
    )


def _only_input(body: bytes, model: Model) -> Mapping[str, Array]:
    """Read a body that is nothing but one tensor, whose type and shape are the model's."""
    if len(model.inputs) != 1:
        raise BadRequest(f"this model has {len(model.inputs)} inputs; a body without JSON can hold one")
    spec = model.inputs[0]
    size = item_size(spec.datatype)
    variable = [axis for axis, length in enumerate(spec.shape) if length < 0]
    if size is None or variable not in ([], [0]):
        raise BadRequest(f"input {spec.name} has no fixed row size; send its shape as JSON before the data")
    row = size
    for length in spec.shape[len(variable) :]:
        row *= length
    rows, rest = divmod(len(body), row)
    if rest or not rows:
        raise BadRequest(f"the body has {len(body)} bytes, and a row of input {spec.name} has {row}")
    shape = (rows, *spec.shape[1:]) if variable else spec.shape
    return {spec.name: from_raw(body, spec.datatype, shape, spec.name)}


def _inputs(data: Mapping[str, Any], raw: memoryview, *, missing: bool) -> dict[str, Array]:
    tensors = data.get("inputs")
    if type(tensors) is not list or not 0 < len(tensors) <= MAX_TENSORS:
        raise BadRequest('the body needs "inputs": a list of tensors with name, shape, datatype and data')
    inputs: dict[str, Array] = {}
    offset = 0
    for index, tensor in enumerate(tensors):
        name = tensor.get("name") if type(tensor) is dict else None
        if type(name) is not str or not name:
            raise BadRequest(f"inputs[{index}] needs to be an object with a name")
        shown = name[:100]
        if name in inputs:
            raise BadRequest(f"input {shown} is there twice")
        datatype = check_datatype(tensor.get("datatype"), shown)
        shape = check_shape(tensor.get("shape"), shown)
        parameters = _object(tensor.get("parameters"), "parameters of input", shown)
        refuse_unsupported(parameters)
        size = parameters.get("binary_data_size")
        if size is None:
            if "data" not in tensor:
                raise BadRequest(f"input {shown} has neither data nor binary_data_size")
            inputs[name] = from_json(tensor["data"], datatype, shape, shown, missing=missing)
            continue
        if type(size) is not int or size < 0:
            raise BadRequest(f"binary_data_size of input {shown} needs to be a number of bytes")
        if "data" in tensor:
            raise BadRequest(f"input {shown} has both data and binary_data_size")
        if offset + size > len(raw):
            raise BadRequest(
                f"input {shown} has binary_data_size {size}, and {len(raw) - offset} bytes are left after the JSON; "
                "Inference-Header-Content-Length gives the length of the JSON"
            )
        inputs[name] = from_raw(raw[offset : offset + size], datatype, shape, shown)
        offset += size
    if offset != len(raw):
        raise BadRequest(f"{len(raw) - offset} bytes after the JSON belong to no input")
    return inputs


def _outputs(data: Mapping[str, Any]) -> list[OutputRequest]:
    wanted = data.get("outputs")
    if wanted is None:
        return []
    if type(wanted) is not list or len(wanted) > MAX_TENSORS:
        raise BadRequest("outputs needs to be a list of objects with a name")
    outputs = []
    for index, output in enumerate(wanted):
        name = output.get("name") if type(output) is dict else None
        if type(name) is not str:
            raise BadRequest(f"outputs[{index}] needs to be an object with a name")
        parameters = _object(output.get("parameters"), "parameters of output", name)
        refuse_unsupported(parameters)
        outputs.append(OutputRequest(name, flag_of(parameters, "binary_data")))
    return outputs


def check_datatype(datatype: Any, name: str) -> str:
    """Return a tensor's datatype from what a client sent. Raises BadRequest."""
    if type(datatype) is not str or datatype not in _DATATYPES:
        shown = repr(datatype)[:50]
        raise BadRequest(f"datatype of input {name} is {shown}; it is one of {', '.join(DATATYPES)}")
    return datatype


def refuse_unsupported(parameters: Mapping[str, Any]) -> None:
    """Raise Unsupported for parameters of a tensor that change where its data is or what it means."""
    if not parameters:
        return
    for name, reason in _UNSUPPORTED.items():
        if parameters.get(name):
            raise Unsupported(reason)


def timeout_of(microseconds: Any) -> float | None:
    """Return the client's timeout in seconds, from its parameter in microseconds; None: it gives none."""
    if microseconds is None:
        return None
    if type(microseconds) is not int or microseconds < 0:
        raise BadRequest("the parameter timeout needs to be a whole number of microseconds")
    return microseconds / 1e6 if microseconds else None


def _object(value: Any, what: str, name: str = "") -> Mapping[str, Any]:
    if value is None:
        return _NO_PARAMETERS
    if type(value) is not dict:
        raise BadRequest(f"{' '.join((what, name[:100])).rstrip()} need to be an object")
    return value


def flag_of(parameters: Mapping[str, Any], name: str) -> bool | None:
    """Return a parameter that is true or false; None where it is not there. Raises BadRequest."""
    value = parameters.get(name)
    if value is not None and type(value) is not bool:
        raise BadRequest(f"{name} needs to be true or false")
    return value
