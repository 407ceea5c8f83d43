"""The format `onnx`: a graph that ONNX Runtime computes, with any number of tensors in and out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelyard_runtime.errors import LoadFailed
from modelyard_runtime.formats.base import Array, InputRefused, Rows, RowsModel, TensorSpec, refuse_rounded
from modelyard_runtime.formats.format import ArtifactFile, Claim, Format
from modelyard_runtime.formats.threads import library, thread_count

__all__ = ["FORMAT", "OnnxModel", "load"]

_logger = logging.getLogger(__name__)
_PROBABILITIES = "probabilities"


@dataclass(frozen=True)
class _Type:
    """One of ONNX's element types, as the Open Inference Protocol and numpy call it."""

    datatype: str
    dtype: Any


class OnnxModel(RowsModel):
    """A graph. Its first output is the prediction; a further one named for probabilities, or a ZipMap, gives those.

    Rows go to a graph with one input of shape (rows, features), or with one input a feature, of shape (rows, 1).
    """

    def __init__(self, session: Any, metadata: Mapping[str, Any]) -> None:
        self._session = session
        self.metadata: Mapping[str, Any] = metadata
        types = _types()
        inputs, outputs = session.get_inputs(), session.get_outputs()
        self.inputs: Sequence[TensorSpec] = tuple(_input(value, types) for value in inputs)
        outputs = [value for value in outputs if _servable(value, types)]
        if not outputs:
            raise LoadFailed("the graph has no output that is a tensor; export it with tensors")
        self.outputs: Sequence[TensorSpec] = tuple(_output(value, types) for value in outputs)
        self._output_types = [value.type for value in outputs]
        self.row_axes: Sequence[str] = _row_axes((*inputs, *outputs))
        self._dtypes = {value.name: types[value.type].dtype for value in inputs}
        self._no_rows = ""
        self._columns = len(self.inputs) > 1 and all(spec.shape in {(-1, 1), (-1,)} for spec in self.inputs)
        self._find_rows()
        self._no_rows = self._why_no_rows()
        if self._no_rows:
            self.features = None
        self._proba = self._find_probabilities()
        found = {spec.name: spec for spec in self.outputs}
        if self._proba is not None and _PROBABILITIES not in found:
            # By this name as for every model. The graph's own output of that name is one of `outputs` already.
            self.probabilities = TensorSpec(_PROBABILITIES, found[self._proba].datatype, (-1, -1))

    def predict(self, rows: Rows) -> Array:
        """Return the first output, of shape (rows,) or (rows, outputs)."""
        name = self.outputs[0].name
        found = self.infer(self._tensors(rows), (name,))[name]
        # A regressor of scikit-learn's gives a column.
        return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found

    def predict_proba(self, rows: Rows) -> Array:
        """Return the output that holds probabilities, of shape (rows, classes)."""
        if self._proba is None:
            return super().predict_proba(rows)
        return self.infer(self._tensors(rows), (self._proba,))[self._proba].astype(np.float64)

    def infer(self, tensors: Mapping[str, Array], wanted: Sequence[str] = ()) -> dict[str, Array]:
        """Compute the wanted outputs, all unless some are named. Raises InputRefused for what the graph refuses."""
        names = list(wanted) or [spec.name for spec in self.outputs]
        own = {_PROBABILITIES: self._proba} if self.probabilities is not None else {}
        feeds = {name: _cast(name, tensor, self._dtypes.get(name)) for name, tensor in tensors.items()}
        try:
            results = self._session.run([own.get(name, name) for name in names], feeds)
        except Exception as exc:
            if type(exc).__name__ in {"InvalidArgument", "ValueError", "RuntimeException"}:
                raise InputRefused(str(exc).strip().splitlines()[0][:200]) from None
            if "Unknown Category" in str(exc):
                raise InputRefused("it has unknown categories; send those that it was trained on") from None
            raise
        return {name: _matrix(result) for name, result in zip(names, results, strict=True)}

    def sample_rows(self) -> list[Rows]:
        """Return rows of zeros and ones; of empty text where there is text."""
        if not self.text_features or self.features is None:
            return super().sample_rows()
        row = np.zeros((1, self.features), dtype=object)
        row[0, list(self.text_features)] = ""
        return [row]

    def _find_rows(self) -> None:
        """Find the number of features of a row, where rows can be given at all."""
        if self._columns:
            self.features = len(self.inputs)
            self.feature_names = tuple(spec.name for spec in self.inputs)
            self.text_features = frozenset(i for i, spec in enumerate(self.inputs) if spec.datatype == "BYTES")
        elif len(self.inputs) == 1 and len(self.inputs[0].shape) == 2 and self.inputs[0].datatype != "BYTES":
            width = self.inputs[0].shape[1]
            self.features = width if width > 0 else None

    def _why_no_rows(self) -> str:
        """Return why rows can't be given, by a trial; empty where they can, or where only a request can tell."""
        if self.features is None:
            return ""
        name = self.outputs[0].name
        for rows in self.sample_rows():
            try:
                found = self.infer(self._tensors(np.repeat(rows, 2, axis=0)), (name,))[name]
            except Exception:  # noqa: S112 -- it may take other rows, or one alone: warm-up tells what fails
                continue
            return "" if found.shape[:1] == (2,) else f"its output {name} has not one row a row"
        return ""

    def _find_probabilities(self) -> str | None:
        for spec, kind in zip(self.outputs, self._output_types, strict=True):
            if kind.startswith("seq(map(") or "prob" in spec.name.lower():
                return spec.name
        return None

    def _tensors(self, rows: Rows) -> dict[str, Array]:
        if self._no_rows:
            raise InputRefused(f"it takes no rows: {self._no_rows}; send tensors, with /v2/models/NAME/infer")
        if self._columns:
            if rows.shape[1] != len(self.inputs):
                raise InputRefused(f"it takes {len(self.inputs)} features, and {rows.shape[1]} were given")
            return {
                spec.name: rows[:, index : index + 1] if len(spec.shape) == 2 else rows[:, index]
                for index, spec in enumerate(self.inputs)
            }
        if len(self.inputs) != 1:
            names = ", ".join(spec.name for spec in self.inputs)
            raise InputRefused(f"it has several inputs ({names}); send them by name, with /v2/models/NAME/infer")
        return {self.inputs[0].name: rows}


def load(path: Path) -> OnnxModel:
    """Load a .onnx file; tensors that are kept beside it are found there. Raises LoadFailed."""
    runtime = library("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin while they wait take the processor from the server's own.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as exc:
        raise LoadFailed(
            f"{path.name} can't be loaded ({type(exc).__name__}: {str(exc)[:300]}); "
            "check it with onnx.checker.check_model, and export it again"
        ) from None
    return OnnxModel(session, dict(session.get_modelmeta().custom_metadata_map))


def _types() -> dict[str, _Type]:
    kinds = {
        "float": ("FP32", np.float32),
        "double": ("FP64", np.float64),
        "float16": ("FP16", np.float16),
        "int8": ("INT8", np.int8),
        "int16": ("INT16", np.int16),
        "int32": ("INT32", np.int32),
        "int64": ("INT64", np.int64),
        "uint8": ("UINT8", np.uint8),
        "uint16": ("UINT16", np.uint16),
        "uint32": ("UINT32", np.uint32),
        "uint64": ("UINT64", np.uint64),
        "bool": ("BOOL", np.bool_),
        "string": ("BYTES", object),
    }
    return {f"tensor({kind})": _Type(*names) for kind, names in kinds.items()}


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) and size > 0 else -1 for size in value.shape or ())


def _input(value: Any, types: Mapping[str, _Type]) -> TensorSpec:
    if value.type not in types:
        raise LoadFailed(f"the graph's input {value.name} is a {value.type}; only tensors can be served")
    return TensorSpec(value.name, types[value.type].datatype, _shape(value))


def _servable(value: Any, types: Mapping[str, _Type]) -> bool:
    """Return whether an output is a tensor, or a ZipMap's; others are left out, and the log says so."""
    if value.type in types or value.type.startswith("seq(map("):
        return True
    _logger.warning("the output %s is a %s, which no protocol can carry: it is left out", value.name, value.type)
    return False


def _output(value: Any, types: Mapping[str, _Type]) -> TensorSpec:
    if value.type.startswith("seq(map("):
        return TensorSpec(value.name, "FP32", (-1, -1))
    return TensorSpec(value.name, types[value.type].datatype, _shape(value))


def _cast(name: str, tensor: Array, dtype: Any) -> Array:
    """Return the tensor in the graph's own type. Raises InputRefused where numbers would change."""
    if dtype is None or tensor.dtype == dtype:
        return tensor
    if dtype is object:
        return tensor.astype(object)
    try:
        with np.errstate(all="ignore"):
            cast = tensor.astype(dtype)
    except OverflowError:
        raise InputRefused(f"{name} needs whole numbers, within {np.dtype(dtype).name}") from None
    except (TypeError, ValueError):
        raise InputRefused(f"{name} needs to be made of numbers") from None
    refuse_rounded(name, tensor, cast)
    if np.dtype(dtype).kind in "iu" and not np.array_equal(cast.astype(np.float64), tensor.astype(np.float64)):
        raise InputRefused(f"{name} needs whole numbers, within {np.dtype(dtype).name}")
    return cast


def _matrix(result: Any) -> Array:
    """Return a tensor; a ZipMap's list of {label: probability} as one of shape (rows, classes)."""
    if isinstance(result, list):
        return np.array([list(row.values()) for row in result], dtype=np.float32)
    return np.asarray(result)


def _row_axes(values: Sequence[Any]) -> tuple[str, ...]:
    """Return the names of the first axes; those without a name are None or empty."""
    first = [value.shape[0] for value in values if value.type.startswith("tensor(") and value.shape]
    return tuple(axis for axis in first if isinstance(axis, str) and axis)


def _claim(file: ArtifactFile) -> Claim:
    return Claim.FILE if file.suffix == ".onnx" else Claim.NONE


FORMAT = Format(
    name="onnx",
    artifact="`*.onnx`, with the files of its weights beside it",
    claim=_claim,
    load=load,
    native=True,
    extra="onnx",
    prediction="the first output",
    probabilities="an output named for them, or a ZipMap",
    rows="`batchable`",
)
