"""The format `linear`: y = w.x + b, with one output or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelyard_runtime.errors import LoadFailed
from modelyard_runtime.formats.base import INDEPENDENT_ROWS, Array, Compiled, Rows, RowsModel, TensorSpec
from modelyard_runtime.formats.format import Format
from modelyard_runtime.formats.parameters import Parameters, claim_of_type, read_parameters

__all__ = ["FORMAT", "LinearModel", "load"]


class LinearModel(RowsModel):
    """Linear regression. Weights of shape (features,) give one number a row, (outputs, features) a list a row."""

    inline = True
    compiled = Compiled("numpy")
    batching = INDEPENDENT_ROWS

    def __init__(self, parameters: Parameters) -> None:
        self.features: int = parameters.weights.shape[-1]
        self.feature_names: Sequence[str] | None = parameters.feature_names
        self.metadata: Mapping[str, Any] = parameters.metadata
        self.inputs: Sequence[TensorSpec] = (TensorSpec("features", "FP64", (-1, self.features)),)
        self.outputs: Sequence[TensorSpec] = (TensorSpec("prediction", "FP64", (-1, *parameters.weights.shape[:-1])),)
        self._weights = np.ascontiguousarray(parameters.weights.T)
        self._bias = parameters.bias

    @np.errstate(all="ignore")
    def predict(self, rows: Rows) -> Array:
        """Return y of shape (rows,) or (rows, outputs); an overflow gives infinity."""
        return np.asarray(rows @ self._weights + self._bias)


def load(path: Path) -> LinearModel:
    """Load a JSON file. Raises LoadFailed."""
    parameters = read_parameters(path)
    if parameters.classes is not None:
        raise LoadFailed(f'{path.name} has classes, which a linear model has not; use "type": "logistic"')
    return LinearModel(parameters)


FORMAT = Format(
    name="linear",
    artifact='`model.json` with `"type": "linear"`',
    claim=claim_of_type("linear"),
    load=load,
    prediction="a number; a list of numbers with several outputs",
    rows="always",
)
