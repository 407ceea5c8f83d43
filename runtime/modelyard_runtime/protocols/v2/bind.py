"""From a client's tensors to a model's: names, datatypes and shapes checked, columns put together as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from modelyard_runtime.errors import BadRequest
from modelyard_runtime.formats.base import Array, Model, TensorSpec
from modelyard_runtime.protocols.v2.datatypes import as_datatype, datatype_of
from modelyard_runtime.protocols.v2.request import InferRequest

__all__ = ["UNNAMED", "bind_inputs", "bind_outputs", "output_specs", "present"]

UNNAMED = frozenset({"input-0", "input_0", "input__0", "predict"})
"""Names that clients of KServe's and MLServer's servers and of Triton's FIL backend give to a model's only input."""


def output_specs(model: Model) -> tuple[TensorSpec, ...]:
    """Return all outputs, those that are made only when asked for last."""
    further = model.probabilities
    return (*model.outputs, further) if further is not None else tuple(model.outputs)


def bind_inputs(model: Model, given: Mapping[str, Array]) -> tuple[dict[str, Array], int]:
    """Return the model's inputs by name and the number of rows: the first axis. Raises BadRequest.

    Where the model has one input of features with names, a tensor a name does as well: shape (rows,) or (rows, 1).
    """
    if len(model.inputs) == len(given) == 1:  # most requests; the general way below comes to the same
        (spec,), ((name, tensor),) = model.inputs, given.items()
        if name == spec.name:
            fitting = _fit(model, spec, tensor)
            return {name: fitting}, len(fitting) if fitting.ndim else 1
    specs = {spec.name: spec for spec in model.inputs}
    if given.keys() <= specs.keys():
        tensors = given
    elif len(specs) == 1 and len(given) == 1 and next(iter(given)) in UNNAMED.difference(model.feature_names or ()):
        tensors = {next(iter(specs)): next(iter(given.values()))}
    elif len(specs) == 1 and model.feature_names:
        tensors = {next(iter(specs)): _columns(model, model.feature_names, given)}
    else:
        raise BadRequest(f"no input {_listing(given.keys() - specs.keys())}; the model has {_listing(specs)}")
    if len(tensors) != len(specs):
        raise BadRequest(f"input {_listing(specs.keys() - tensors.keys())} is missing")
    bound = {name: _fit(model, specs[name], tensor) for name, tensor in tensors.items()}
    first = next(iter(bound.values()))
    return bound, len(first) if first.ndim else 1


def _columns(model: Model, names: Sequence[str], given: Mapping[str, Array]) -> Array:
    missing = [name for name in names if name not in given]
    known = frozenset(names)
    unknown = [name for name in given if name not in known]
    if missing or unknown:
        parts = [f"lacks {_listing(missing)}"] if missing else []
        parts += [f"has the unknown {_listing(unknown)}"] if unknown else []
        only = model.inputs[0].name
        raise BadRequest(
            f"the request {' and '.join(parts)}; send the input {only}, or an input for each of {_listing(names)}"
        )
    rows = len(given[names[0]]) if given[names[0]].ndim else -1
    columns = []
    for position, name in enumerate(names):
        column = given[name]
        if column.shape not in ((rows,), (rows, 1)):
            raise BadRequest(
                f"input {name[:100]} has shape {list(column.shape)}; columns are [rows] or [rows, 1], alike"
            )
        if column.dtype.kind == "O" and position not in model.text_features:
            raise BadRequest(f"input {name[:100]} is BYTES, and the model takes a number there")
        if column.dtype.kind != "O" and position in model.text_features:
            raise BadRequest(f"input {name[:100]} is {datatype_of(column)}, and the model takes text there: send BYTES")
        columns.append(column.reshape(rows))
    if any(column.dtype.kind == "O" for column in columns):
        table = np.empty((rows, len(columns)), dtype=object)
        for position, column in enumerate(columns):
            table[:, position] = column
        return table
    return np.stack(columns, axis=1, dtype=np.float64, casting="same_kind")


def _fit(model: Model, spec: TensorSpec, tensor: Array) -> Array:
    if model.text_features and spec.shape == (-1, 1) and tensor.ndim == 1:
        tensor = tensor.reshape(-1, 1)  # texts, one a row
    wanted, shape = spec.shape, tensor.shape
    # Of an input without a shape, which an ONNX graph may have, any is taken: the graph judges it.
    if (
        wanted
        and wanted != shape
        and (
            len(shape) != len(wanted) or any(length not in (-1, got) for length, got in zip(wanted, shape, strict=True))
        )
    ):
        raise BadRequest(f"input {spec.name} has shape {list(tensor.shape)}, and the model takes {list(wanted)}")
    if 0 in tensor.shape:
        raise BadRequest(f"input {spec.name} is empty; send at least one row")
    if model.text_features and tensor.dtype.kind == "O":
        return _numbers_of_text(model, spec, tensor) if len(model.inputs) == 1 and tensor.ndim == 2 else tensor
    fitting = as_datatype(tensor, spec.datatype)
    if fitting is None and tensor.dtype.kind in "iu" and spec.datatype.startswith(("INT", "UINT")):
        raise BadRequest(f"input {spec.name} has numbers that {spec.datatype} can't hold")
    if fitting is None:
        raise BadRequest(f"input {spec.name} is {datatype_of(tensor)}, and the model takes {spec.datatype}")
    return fitting


def _numbers_of_text(model: Model, spec: TensorSpec, tensor: Array) -> Array:
    """Return rows of text, of shape (rows, features), with numbers where the model was fitted on numbers.

    A tensor has one datatype, and so the numbers of a model that takes text as well come as text. Raises BadRequest.
    """
    table = tensor.copy()
    for position in range(tensor.shape[1]):
        if position in model.text_features:
            continue
        for row, value in enumerate(tensor[:, position].tolist()):
            if isinstance(value, str):
                table[row, position] = _number(value, f"{spec.name}[{row}][{position}]")
    return table


def _number(text: str, where: str) -> float:
    try:
        return float(text.replace("_", "?"))  # 1_000 is a number to Python alone
    except ValueError:
        raise BadRequest(f"{where} is {text[:40]!r}, and the model takes a number there") from None


def bind_outputs(model: Model, request: InferRequest) -> tuple[str, ...]:
    """Return the names of the outputs to make, each once; none: all `model.outputs`. Raises BadRequest."""
    if not request.outputs:
        return ()
    names = tuple(dict.fromkeys(output.name for output in request.outputs))
    known = [spec.name for spec in output_specs(model)]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BadRequest(f"no output {_listing(unknown)}; the model has {_listing(known)}")
    return names


def present(model: Model, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return outputs in the datatypes that the model's metadata gives, where they hold the same values."""
    specs = output_specs(model)
    shown: dict[str, Array] = {}
    for name, values in outputs.items():
        array = np.asarray(values)
        datatype = next((spec.datatype for spec in specs if spec.name == name), "BYTES")
        if datatype != "BYTES" and array.dtype.kind not in "OUS":
            array = _as_or_same(array, datatype)
        elif datatype == "BYTES" and datatype_of(array) != "BYTES":
            array = array.astype(str)
        shown[name] = array
    return shown


def _as_or_same(values: Array, datatype: str) -> Array:
    cast = as_datatype(values, datatype)
    return values if cast is None else cast


def _listing(names: object) -> str:
    shown = [str(name)[:60] for name in names]  # type: ignore[attr-defined]  # any iterable of names
    text = ", ".join(shown[:12])
    return f"{text}, … ({len(shown)} in all)" if len(shown) > 12 else text or "none"
