"""What every format gives: a model that takes rows of numbers and knows its own inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "InputRefused", "Model", "Rows", "TensorSpec", "output_spec", "sample_rows"]

Rows: TypeAlias = npt.NDArray[np.float64]
"""Rows of features, of shape (rows, features)."""
Array: TypeAlias = npt.NDArray[Any]


class InputRefused(ValueError):
    """The model can't answer for these very values; the message is for the client."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: name, datatype (FP64, INT64, BOOL, BYTES) and shape, where -1 is any number."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Model(Protocol):
    """A loaded model. Its methods may be called from several threads at once."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The inputs, in order; the first axis is the rows."""

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """The outputs, in order; the first axis is the rows."""

    @property
    def features(self) -> int | None:
        """The number of features of a row; None where the model does not know."""

    @property
    def feature_names(self) -> Sequence[str] | None:
        """The names of the features, in order; None where the model does not know them."""

    @property
    def inline(self) -> bool:
        """Whether a row costs so little (microseconds) that no thread is worth it."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the artifact says about itself, `performance` for instance; JSON types."""

    def predict(self, rows: Rows) -> Array:
        """Return one prediction a row: shape (rows,), or (rows, outputs). Raises InputRefused."""


def output_spec(sample: Array) -> TensorSpec:
    """Describe the output `prediction` from a sample of it, of shape (rows,) or (rows, outputs)."""
    datatype = {"f": "FP64", "i": "INT64", "u": "INT64", "b": "BOOL"}.get(sample.dtype.kind, "BYTES")
    return TensorSpec("prediction", datatype, (-1, *sample.shape[1:]))


def sample_rows(features: int) -> list[Rows]:
    """Return single rows to try a model on: zeros, and ones for models that take only positive numbers."""
    return [np.zeros((1, features)), np.ones((1, features))]
