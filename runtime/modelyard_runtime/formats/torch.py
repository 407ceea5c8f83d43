"""The format `torch`: an exported program (`torch.export.save`) or a TorchScript archive (`torch.jit.save`).

Exported programs are not safe by themselves: `torch.export.load` unpickles weights without a restriction, evaluates
the text of symbolic sizes, and calls whatever can be reached from the module torch by name. So the archive is read
before that: see `_check_program`. TorchScript has torch's operators alone and no Python pickle.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from modelyard_runtime.errors import UnsafeArtifact
from modelyard_runtime.formats.base import Array, InputRefused, Rows, RowsModel, TensorSpec
from modelyard_runtime.formats.threads import library, thread_count

__all__ = ["TorchModel", "load"]

_TARGET = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|eq|ne|lt|le|gt|ge|getitem)"
)
# Sizes as sympy's srepr writes them: symbols, whole numbers and these functions of them.
_SIZE = re.compile(
    r"(?:(?:Symbol|Integer|Add|Mul|Mod|FloorDiv|Min|Max|positive|integer|nonnegative|True|False)\b"
    r"|'[su]\d+'|\d+|[-(),= ])+"
)
_TYPE = re.compile(r'"type":\s*"([^"]*)"|"(default_factory_\w+|__enum__)"')
_SPEC_TYPES = {("builtins.tuple", ""), ("builtins.list", ""), ("builtins.dict", "")}
_DTYPES = {"float32": "FP32", "float64": "FP64", "float16": "FP16", "int8": "INT8", "int16": "INT16", "int32": "INT32"}
_DTYPES |= {"int64": "INT64", "uint8": "UINT8", "bool": "BOOL"}


class TorchModel(RowsModel):
    """A module on the processor; its first output is the prediction."""

    def __init__(self, torch: Any, module: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self._torch = torch
        self._module = module
        self.inputs: Sequence[TensorSpec] = tuple(inputs)
        self.outputs: Sequence[TensorSpec] = tuple(outputs)
        if len(self.inputs) == 1 and len(self.inputs[0].shape) == 2 and self.inputs[0].shape[1] > 0:
            self.features = self.inputs[0].shape[1]

    def predict(self, rows: Rows) -> Array:
        """Return the first output, of shape (rows,) or (rows, outputs)."""
        if len(self.inputs) != 1:
            names = ", ".join(spec.name for spec in self.inputs)
            raise InputRefused(f"it has several inputs ({names}); send them by name, with /v2/models/NAME/infer")
        found = next(iter(self.infer({self.inputs[0].name: rows}).values()))
        return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found

    def infer(self, tensors: Mapping[str, Array], wanted: Sequence[str] = ()) -> dict[str, Array]:
        """Compute the wanted outputs, all unless some are named. Raises InputRefused for what the module refuses."""
        try:
            feeds = [self._tensor(tensors[spec.name], spec.datatype) for spec in self.inputs]
        except KeyError as exc:
            raise InputRefused(f"the input {exc.args[0]} is missing") from None
        try:
            with self._torch.inference_mode():
                result = self._module(*feeds)
        except (RuntimeError, ValueError, AssertionError) as exc:
            raise InputRefused(str(exc).strip().splitlines()[0][:200]) from None
        if isinstance(result, Mapping):
            found = dict(result)
        else:
            values = list(result) if isinstance(result, tuple | list) else [result]
            names = ["prediction"] if len(values) == 1 else [f"output_{index}" for index in range(len(values))]
            found = dict(zip(names, values, strict=True))
        for name in wanted:
            if name not in found:
                raise InputRefused(f"it has no output {name!r}")
        return {name: found[name].numpy() for name in (wanted or found)}

    def _tensor(self, values: Array, datatype: str) -> Any:
        kind = next(name for name, found in _DTYPES.items() if found == datatype)
        cast = np.asarray(values).astype(kind)
        if cast.dtype.kind in "iu" and not np.array_equal(cast, values):
            raise InputRefused(f"whole numbers are needed, within {kind}")
        return self._torch.from_numpy(np.ascontiguousarray(cast))


def load(path: Path, *, allow_pickle: bool = False) -> TorchModel:
    """Load an archive, its outputs by trying a row of zeros. Raises LoadFailed, UnsafeArtifact."""
    torch = library("torch", "torch")
    torch.set_num_threads(thread_count())
    with zipfile.ZipFile(path) as archive:
        exported = any("/models/" in name or name == "serialized_exported_program.json" for name in archive.namelist())
        if exported and not allow_pickle:
            _check_program(torch, path.name, archive)
    if exported:
        program = torch.export.load(path)
        values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
        inputs = [_spec(name, values[name]) for name in program.graph_signature.user_inputs]
        module = program.module()
    else:
        module = torch.jit.load(path, map_location="cpu").eval()
        names = [argument.name for argument in module.forward.schema.arguments[1:]]
        inputs = [TensorSpec(name, "FP32", (-1, -1)) for name in names]
    return TorchModel(torch, module, inputs, [TensorSpec("prediction", "FP32", (-1, -1))])


def _spec(name: str, value: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorSpec(name, _DTYPES[str(value.dtype).removeprefix("torch.")], shape)


def _check_program(torch: Any, name: str, archive: zipfile.ZipFile) -> None:
    """Raise UnsafeArtifact for anything but operators of torch's, plain sizes and pickles that hold tensors alone."""
    leave = "export it again from plain operators, or set spec.model.allowPickle: true if you trust it"
    for member in archive.namelist():
        content = archive.read(member)
        base = member.rpartition("/")[2]
        if "/aotinductor/" in member or base.startswith(("custom_obj", "opaque_obj")):
            raise UnsafeArtifact(f"{name} holds {member}, which is code or an object of its own; {leave}")
        if base.endswith(".json"):
            for key, text in _strings(orjson.loads(content)):
                if key == "target" and not _TARGET.fullmatch(text):
                    raise UnsafeArtifact(f"{name} calls {text[:100]}, which is no operator of torch's own; {leave}")
                if key in {"in_spec", "out_spec"} and not _SPEC_TYPES.issuperset(_TYPE.findall(text)):
                    raise UnsafeArtifact(f"{name} takes or gives objects of types that would be imported; {leave}")
                if key == "expr_str" and not _SIZE.fullmatch(text):
                    raise UnsafeArtifact(f"{name} has the size {text[:100]!r}, which would be evaluated; {leave}")
        elif content[:2] in (b"PK", b"\x80\x02"):
            try:
                torch.load(io.BytesIO(content), weights_only=True)
            except Exception:
                raise UnsafeArtifact(f"{name} holds {member}, a pickle of more than tensors; {leave}") from None


def _strings(data: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(data, dict):
        for inner, value in data.items():
            yield from _strings(value, inner)
    elif isinstance(data, list):
        for value in data:
            yield from _strings(value, key)
    elif isinstance(data, str):
        yield key, data
