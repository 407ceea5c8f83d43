"""The format `torch`: an exported program, TorchScript, or a pickled module. All of them are code.

`torch.export.load` evaluates the text of symbolic sizes, calls functions by name and unpickles without a restriction.
TorchScript runs its `__setstate__` at load, and its operators write files (`aten::save`). So each needs allowPickle.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from modelyard_runtime.errors import LoadFailed, StartupFailure, UnsafeArtifact
from modelyard_runtime.formats.base import Array, Batching, InputRefused, Rows, RowsModel, TensorSpec, refuse_rounded
from modelyard_runtime.formats.format import ArtifactFile, Claim, Format
from modelyard_runtime.formats.threads import library, thread_count
from modelyard_runtime.formats.torchfiles import TorchKind, torch_kind, why_unsafe

__all__ = ["FORMAT", "TorchModel", "load"]

_SUFFIXES = (".pt2", ".pt", ".pth", ".ts")

_SIGNATURE = "signature.json"
_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
}
_DTYPES = {datatype: dtype for dtype, datatype in _DATATYPES.items()}
_EXPORT = (
    "torch.export.save(torch.export.export(module.eval(), (example,), "
    "dynamic_shapes=({0: torch.export.Dim('rows')},)), 'model.pt2')"
)
_UNKNOWN = (TensorSpec("prediction", "FP64", (-1, -1)),)


class TorchModel(RowsModel):
    """A module on the processor. Its first output is the prediction.

    The only tensor of a result is `prediction`; several are `prediction`, `output_1`, ...; those of a dict, its keys.
    """

    def __init__(
        self,
        torch: Any,
        call: Callable[[Sequence[Any]], Any],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec] | None,
    ) -> None:
        """`call` takes tensors in the order of `inputs`. Where `outputs` are not known, the first is `prediction`.

        Where the first axis of all of them is 1, rows are computed one by one.
        """
        self._torch = torch
        self._call = call
        self._known = outputs is not None
        shapes = [spec.shape[:1] for spec in (*inputs, *(outputs or _UNKNOWN))]
        self._one_by_one = set(shapes) == {(1,)}
        if self._one_by_one:
            self.batching = Batching(True, "it takes one row, and each is computed by itself")
        self.inputs: Sequence[TensorSpec] = self._rows_of(inputs)
        self.outputs: Sequence[TensorSpec] = self._rows_of(outputs or _UNKNOWN)
        if len(self.inputs) == 1 and len(self.inputs[0].shape) == 2 and self.inputs[0].shape[1] > 0:
            self.features = self.inputs[0].shape[1]

    def predict(self, rows: Rows) -> Array:
        """Return the first output, of shape (rows,) or (rows, outputs)."""
        if len(self.inputs) != 1:
            names = ", ".join(spec.name for spec in self.inputs)
            raise InputRefused(f"it has several inputs ({names}); send them by name, with /v2/models/NAME/infer")
        spec, name = self.inputs[0], self.outputs[0].name
        if len(spec.shape) != 2:
            raise InputRefused(
                f"it takes no rows, but {spec.name} of shape {list(spec.shape)}; send that with /v2/models/NAME/infer"
            )
        found = self.infer({spec.name: rows}, (name,))[name]
        return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found

    def infer(self, tensors: Mapping[str, Array], wanted: Sequence[str] = ()) -> dict[str, Array]:
        """Compute the wanted outputs, all unless some are named. Raises InputRefused for what the module refuses."""
        missing = [spec.name for spec in self.inputs if spec.name not in tensors]
        if missing:
            raise InputRefused(f"the input {missing[0]} is missing")
        feeds = [self._torch.from_numpy(_cast(tensors[spec.name], spec)) for spec in self.inputs]
        feeds = [feed.to(_dtype(self._torch, spec)) for feed, spec in zip(feeds, self.inputs, strict=True)]
        try:
            with self._torch.inference_mode():
                found = self._compute(feeds)
        except (RuntimeError, ValueError, IndexError, AssertionError) as exc:
            raise InputRefused(_reason(exc)) from None
        if not self._known:
            found = {"prediction": next(iter(found.values()))}
        unknown = [name for name in wanted if name not in found]
        if unknown:
            raise InputRefused(f"it has no output {unknown[0]!r}")
        return {name: self._array(found[name]) for name in wanted or found}

    def _compute(self, feeds: Sequence[Any]) -> dict[str, Any]:
        if not self._one_by_one:
            return _named(self._call(feeds))
        if len({len(feed) for feed in feeds}) != 1:
            raise InputRefused("its inputs have different numbers of rows")
        rows = [_named(self._call(row)) for row in zip(*(feed.split(1) for feed in feeds), strict=True)]
        return {name: self._torch.cat([row[name] for row in rows]) for name in rows[0]}

    def _array(self, value: Any) -> Array:
        # numpy has no bfloat16.
        found: Array = (value.float() if value.dtype == self._torch.bfloat16 else value).numpy(force=True)
        return found

    def _rows_of(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        if not self._one_by_one:
            return tuple(specs)
        return tuple(TensorSpec(spec.name, spec.datatype, (-1, *spec.shape[1:])) for spec in specs)


def load(path: Path, *, allow_pickle: bool = False) -> TorchModel:
    """Load a file of PyTorch's. Raises UnsafeArtifact where code is not allowed, LoadFailed.

    An exported program knows its inputs and outputs. Of the others, `signature.json` beside the file tells the inputs,
    `{"inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 3, 224, 224]}]}`, and a trial the outputs; without
    it, a forward with one argument is given `features` and one with several each by its name, all FP32 of shape
    (rows, any). What a module needs may lie beside it as Python files.
    """
    if not allow_pickle:
        raise UnsafeArtifact(why_unsafe(path))
    kind = torch_kind(path)
    if kind is None:
        raise LoadFailed(f"{path.name} is no file of PyTorch's; write one with {_EXPORT}")
    torch = library("torch", "torch")
    torch.set_num_threads(thread_count())
    try:
        if kind is TorchKind.PROGRAM:
            return _program(torch, path)
        if kind is TorchKind.SCRIPT:
            module = torch.jit.load(path, map_location="cpu").eval()
            names = _script_arguments(module)
        else:
            module = _pickled(torch, path).eval()
            names = _arguments(module.forward)
        return _module(torch, module, _declared(path.parent) or _assumed(names))
    except (StartupFailure, MemoryError):
        raise
    except (Exception, SystemExit) as exc:
        raise LoadFailed(
            f"{path.name} can't be loaded ({type(exc).__name__}: {str(exc).strip()[:500]}); "
            f"save it again with PyTorch {torch.__version__}, and from the processor: module.cpu()"
        ) from None


def _program(torch: Any, path: Path) -> TorchModel:
    program = torch.export.load(path)
    module = program.module()
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    given, made = (
        [spec.arg for spec in specs if spec.kind.name == kind]
        for specs, kind in (
            (program.graph_signature.input_specs, "USER_INPUT"),
            (program.graph_signature.output_specs, "USER_OUTPUT"),
        )
    )
    inputs = [_spec(torch, "input", arg.name, values.get(arg.name)) for arg in given]
    fixed = [spec.shape[0] for spec in inputs if spec.shape and spec.shape[0] > 1]
    if fixed and len(fixed) == len(inputs):
        raise LoadFailed(f"{path.name} was exported for {fixed[0]} rows, no more and no fewer; write it with {_EXPORT}")
    leaves = [values.get(getattr(arg, "name", "")) for arg in made]
    outputs = _output_specs(torch, _named(program.call_spec.out_spec.unflatten(leaves)))

    def call(feeds: Sequence[Any]) -> Any:
        args, kwargs = program.call_spec.in_spec.unflatten(list(feeds))
        return module(*args, **kwargs)

    model = TorchModel(torch, call, inputs, outputs)
    tensors = [
        value for value in (*(values.get(arg.name) for arg in given), *leaves) if isinstance(value, torch.Tensor)
    ]
    first = [value.shape[0] for value in tensors if isinstance(value, torch.Tensor) and value.ndim]
    model.row_axes = tuple(str(size) for size in first if not isinstance(size, int))
    return model


def _module(torch: Any, module: Any, inputs: Sequence[TensorSpec]) -> TorchModel:
    """Return a module whose outputs are found by a trial, on zeros, where the sizes of its inputs are known."""
    if any(size < 0 for spec in inputs for size in spec.shape[1:]):
        return TorchModel(torch, lambda feeds: module(*feeds), inputs, None)
    zeros = [torch.zeros([max(size, 1) for size in spec.shape], dtype=_dtype(torch, spec)) for spec in inputs]
    try:
        with torch.inference_mode():
            result = module(*zeros)
    except Exception as exc:
        raise LoadFailed(
            f"it can't compute the zeros that {_SIGNATURE} describes ({_reason(exc)}); correct that file"
        ) from None
    outputs = [
        TensorSpec(spec.name, spec.datatype, (-1, *spec.shape[1:]) if spec.shape[:1] == (1,) else spec.shape)
        for spec in _output_specs(torch, _named(result))
    ]
    return TorchModel(torch, lambda feeds: module(*feeds), inputs, outputs)


def _pickled(torch: Any, path: Path) -> Any:
    try:
        with _modules_of(path.parent):
            found = torch.load(path, map_location="cpu", weights_only=False)
    except (ModuleNotFoundError, AttributeError) as exc:
        raise LoadFailed(
            f"{path.name} needs code that is not here ({exc}); put the Python file with its classes beside it, "
            f"or write it with {_EXPORT}"
        ) from None
    if isinstance(found, torch.nn.Module):
        return found
    if isinstance(found, Mapping):
        raise LoadFailed(
            f"{path.name} is a state dict: weights, and no code to compute with. "
            f"Load it into its module (load_state_dict), and write that with {_EXPORT}"
        )
    raise LoadFailed(f"{path.name} holds a {type(found).__name__}, and no module; write one with {_EXPORT}")


@contextmanager
def _modules_of(folder: Path) -> Iterator[None]:
    """Let the Python files of a folder be imported; forget them then: another version brings its own of that name."""
    # Last, so that a file of the artifact's never stands in for a library.
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "/").is_relative_to(folder):
                del sys.modules[name]


def _script_arguments(module: Any) -> list[str]:
    needed = [argument for argument in module.forward.schema.arguments[1:] if not argument.has_default_value()]
    for argument in needed:
        if str(argument.type) != "Tensor":
            raise LoadFailed(f"its forward takes {argument.name}, a {argument.type}; only tensors can be served")
    return [argument.name for argument in needed]


def _arguments(forward: Any) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(forward).parameters.values()
    return [item.name for item in parameters if item.kind in kinds and item.default is item.empty] or ["features"]


def _assumed(names: Sequence[str]) -> list[TensorSpec]:
    return [TensorSpec(name if len(names) > 1 else "features", "FP32", (-1, -1)) for name in names]


def _declared(folder: Path) -> list[TensorSpec]:
    """Return the inputs that signature.json tells; none where there is no such file."""
    path = folder / _SIGNATURE
    if not path.is_file():
        return []
    try:
        items = orjson.loads(path.read_bytes())["inputs"]
        specs = [TensorSpec(str(item["name"]), item["datatype"], tuple(map(int, item["shape"]))) for item in items]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as exc:
        raise LoadFailed(
            f'{_SIGNATURE} can\'t be used ({type(exc).__name__}: {exc}); write {{"inputs": '
            '[{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}, where -1 is any number of rows'
        ) from None
    for spec in specs:
        if spec.datatype not in _DTYPES:
            raise LoadFailed(f"{_SIGNATURE}: {spec.datatype!r} of {spec.name} is none of {', '.join(_DTYPES)}")
        if spec.shape[:1] != (-1,):
            raise LoadFailed(f"{_SIGNATURE}: the shape of {spec.name} needs to start with -1, the rows")
    return specs


def _named(result: Any) -> dict[str, Any]:
    """Return a module's result by name."""
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items()}
    values = result if isinstance(result, tuple | list) else (result,)
    return {f"output_{index}" if index else "prediction": value for index, value in enumerate(values)}


def _output_specs(torch: Any, found: Mapping[str, Any]) -> list[TensorSpec]:
    specs = [_spec(torch, "output", name, value) for name, value in found.items()]
    if not specs:
        raise LoadFailed("the module returns nothing; return a tensor, or a tuple or dict of tensors")
    # The answer has these as float32.
    return [TensorSpec(s.name, "FP32" if s.datatype == "BF16" else s.datatype, s.shape) for s in specs]


def _spec(torch: Any, what: str, name: str, value: Any) -> TensorSpec:
    dtype = str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else type(value).__name__
    if dtype not in _DATATYPES:
        raise LoadFailed(f"the module's {what} {name} is no tensor of numbers, but {dtype}; only those can be served")
    return TensorSpec(name, _DATATYPES[dtype], tuple(size if isinstance(size, int) else -1 for size in value.shape))


def _dtype(torch: Any, spec: TensorSpec) -> Any:
    return getattr(torch, _DTYPES[spec.datatype])


def _cast(tensor: Array, spec: TensorSpec) -> Array:
    """Return a copy, which the module may write to, in the input's type. Raises InputRefused where numbers change."""
    kind = np.dtype("float32" if spec.datatype == "BF16" else _DTYPES[spec.datatype])
    try:
        with np.errstate(all="ignore"):
            cast = np.array(tensor, dtype=kind, order="C")
    except (TypeError, ValueError):
        raise InputRefused(f"{spec.name} needs to be made of numbers") from None
    refuse_rounded(spec.name, tensor, cast)
    if kind.kind in "iub" and cast.dtype != tensor.dtype and not np.array_equal(cast, tensor):
        raise InputRefused(f"{spec.name} needs whole numbers, within {kind.name}")
    return cast


def _reason(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()] or [type(exc).__name__]
    # TorchScript begins with the places in its code, and ends with what was wrong.
    return lines[-1 if "TorchScript interpreter" in lines[0] else 0][:200]


def _claim(file: ArtifactFile) -> Claim:
    return Claim.CODE if file.suffix in _SUFFIXES and torch_kind(file.path) is not None else Claim.NONE


FORMAT = Format(
    name="torch",
    artifact="`*.pt2` as `torch.export.save` writes it, or `*.pt`: TorchScript or a module; needs `allowPickle`",
    claim=_claim,
    load=load,
    unsafe=why_unsafe,
    extra="torch",
    prediction="the first output",
    rows="`batchable`",
)
