"""The format `python`: a user's own class, in a `model.py`. Its code runs here, so the spec has to allow it.

    class Model:
        def load(self, folder):            # a pathlib.Path: where the artifact's files are
            self.weights = numpy.load(folder / "weights.npy")
        def predict(self, rows):           # numpy, of shape (rows, features)
            return rows @ self.weights     # one prediction a row

`features` (a number), `feature_names` (a list), `batchable` (True where rows are independent) and `predict_proba` are
optional. A ValueError is the client's error.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelyard_runtime.errors import LoadFailed, UnsafeArtifact
from modelyard_runtime.formats.base import Array, InputRefused, Rows, RowsModel, TensorSpec, output_spec
from modelyard_runtime.formats.format import ArtifactFile, Claim, Format

__all__ = ["FORMAT", "PythonModel", "load"]

_CLASS = "Model"


class PythonModel(RowsModel):
    """A user's object with `predict`."""

    def __init__(self, model: Any) -> None:
        names = getattr(model, "feature_names", None)
        self._model = model
        self.feature_names = None if names is None else tuple(map(str, names))
        count = getattr(model, "features", None if names is None else len(names))
        self.features = None if count is None else int(count)
        self.metadata: Mapping[str, Any] = {}
        self.batchable = getattr(model, "batchable", False) is True
        self.inputs: Sequence[TensorSpec] = (TensorSpec("features", "FP64", (-1, self.features or -1)),)
        self.outputs: Sequence[TensorSpec] = (self._find_output(),)
        if callable(getattr(model, "predict_proba", None)):
            self.probabilities = TensorSpec("probabilities", "FP64", (-1, -1))

    def predict(self, rows: Rows) -> Array:
        """Return what the user's predict gives, as an array."""
        return self._ask("predict", rows)

    def predict_proba(self, rows: Rows) -> Array:
        """Return what the user's predict_proba gives, where there is one."""
        return self._ask("predict_proba", rows) if self.probabilities is not None else super().predict_proba(rows)

    def _ask(self, method: str, rows: Rows) -> Array:
        try:
            return np.asarray(getattr(self._model, method)(rows))
        except ValueError as exc:
            text = str(exc).strip()
            raise InputRefused(text.splitlines()[0][:200] if text else "no reason given") from None

    def _find_output(self) -> TensorSpec:
        for rows in self.sample_rows():
            try:
                return output_spec(self.predict(rows))
            except Exception:  # noqa: S112 -- warm-up reports what fails; here it only lacks a description
                continue
        return TensorSpec("prediction", "FP64", (-1,))


def load(path: Path, *, allow_pickle: bool = False) -> PythonModel:
    """Run model.py and its Model.load. Raises UnsafeArtifact where code is not allowed, LoadFailed."""
    if not allow_pickle:
        raise UnsafeArtifact(_unsafe(path))
    spec = importlib.util.spec_from_file_location("modelyard_user_model", path)
    if spec is None or spec.loader is None:
        raise LoadFailed(f"{path.name} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    # Last, so that a file of the artifact's never stands in for a library.
    sys.path.append(str(path.parent))
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        model = _make(getattr(module, _CLASS, None), path.parent)
    except MemoryError:
        raise
    except (Exception, SystemExit) as exc:
        raise LoadFailed(f"{path.name} failed{_line(exc, path)} ({type(exc).__name__}: {str(exc)[:500]})") from None
    if model is None:
        raise LoadFailed(f"{path.name} has no class {_CLASS}; give it one with load(folder) and predict(rows)")
    if not callable(getattr(model, "predict", None)):
        raise LoadFailed(f"{_CLASS} of {path.name} has no predict; give it predict(rows)")
    try:
        return PythonModel(model)
    except (TypeError, ValueError) as exc:
        raise LoadFailed(f"features or feature_names of {path.name} can't be used ({exc})") from None


def _make(kind: Any, folder: Path) -> Any:
    """Return a loaded object of the user's class; None where there is no class."""
    if not isinstance(kind, type):
        return None
    model = kind()
    if not callable(getattr(model, "load", None)):
        return model
    returned = model.load(folder)
    return model if returned is None else returned


def _line(exc: BaseException, path: Path) -> str:
    """Say on which line of the user's file it was."""
    lines = [frame.lineno for frame in traceback.extract_tb(exc.__traceback__) if frame.filename == str(path)]
    if isinstance(exc, SyntaxError) and exc.filename == str(path):
        lines.append(exc.lineno)
    return f" on line {lines[-1]}" if lines else ""


def _claim(file: ArtifactFile) -> Claim:
    return Claim.FOLDER if file.name == "model.py" else Claim.NONE


def _unsafe(path: Path) -> str:
    return f"{path.name} is code that would run here; set spec.model.allowPickle: true if you trust it"


FORMAT = Format(
    name="python",
    artifact="`model.py` with your class `Model`; needs `allowPickle`",
    claim=_claim,
    load=load,
    unsafe=_unsafe,
    prediction="as its `predict`",
    probabilities="where it has `predict_proba`",
    rows="`batchable`",
)
