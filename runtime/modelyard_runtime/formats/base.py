"""What every format gives: a model that takes rows of numbers and knows its own inputs and outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "INDEPENDENT_ROWS",
    "Array",
    "Batching",
    "Compiled",
    "InputRefused",
    "Model",
    "Rows",
    "RowsModel",
    "TensorSpec",
    "all_finite",
    "output_spec",
    "refuse_rounded",
]

Rows: TypeAlias = npt.NDArray[np.float64]
"""Rows of features, of shape (rows, features); for models with `text_features` their dtype may be object."""
Array: TypeAlias = npt.NDArray[Any]


class InputRefused(ValueError):
    """The model can't answer for these very values; the message is for the client."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: name, datatype (FP64, INT64, BOOL, BYTES) and shape, where -1 is any number."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Compiled:
    """In which form a model computes, and why not in a faster one."""

    form: str
    """`numpy` for one made at load, `original` for the library's own."""
    reason: str = ""
    """Why the original runs; empty where a faster form does, or where there is none to look for."""


@dataclass(frozen=True)
class Batching:
    """Whether rows of different requests may be computed together, and why, or why not.

    Only where each row's answer is the same whatever rows are computed beside it. Both go to `GET /models/NAME`.
    """

    allowed: bool
    reason: str


INDEPENDENT_ROWS = Batching(True, "its rows are independent by construction")
_UNKNOWN_ROWS = Batching(
    False, "it is not known whether its rows are independent; where they are, declare batchable: true"
)


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

    @property
    def text_features(self) -> frozenset[int]:
        """The positions of features that are text; of others a row has numbers."""

    @property
    def takes_missing(self) -> bool:
        """Whether a value may be missing: NaN in rows, for text too. It may still refuse that of some features."""

    @property
    def compiled(self) -> Compiled:
        """The form in which the model computes."""

    @property
    def batching(self) -> Batching:
        """Whether rows of different requests may be computed together. Where not, each request is computed alone."""

    @property
    def probabilities(self) -> TensorSpec | None:
        """The further output `probabilities`, of shape (rows, classes), made when asked for; None: there is none."""

    def predict(self, rows: Rows) -> Array:
        """Return one prediction a row: shape (rows,), or (rows, outputs). Raises InputRefused."""

    def predict_proba(self, rows: Rows) -> Array:
        """Return the probability of each class, of shape (rows, classes). Raises InputRefused where there are none."""

    def infer(self, tensors: Mapping[str, Array], wanted: Sequence[str] = ()) -> dict[str, Array]:
        """Return outputs by name for inputs by name, all `outputs` unless some are `wanted`. Raises InputRefused.

        Names, datatypes and shapes are those of `inputs`, checked before.
        """

    def sample_rows(self) -> list[Rows]:
        """Return single rows to try the model on; none where its features are not known."""


class RowsModel:
    """The parts of Model that follow from the others, for a model whose one input is its rows."""

    inline: bool = False
    features: int | None = None
    feature_names: Sequence[str] | None = None
    text_features: frozenset[int] = frozenset()
    takes_missing: bool = False
    metadata: Mapping[str, Any] = MappingProxyType({})
    compiled: Compiled = Compiled("original")
    batching: Batching = _UNKNOWN_ROWS
    batchable: bool = False
    """The author's word that rows are independent, as the artifact has it; a trial at load has to agree."""
    row_axes: Sequence[str] = ()
    """The names of the first axes of inputs and outputs, of those that have a name."""
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()
    probabilities: TensorSpec | None = None

    def predict(self, rows: Rows) -> Array:
        """Return one prediction a row."""
        raise NotImplementedError

    def predict_proba(self, rows: Rows) -> Array:
        """Refuse: most models have no probabilities."""
        raise InputRefused("it has no probabilities; ask for the prediction")

    def infer(self, tensors: Mapping[str, Array], wanted: Sequence[str] = ()) -> dict[str, Array]:
        """Return `prediction`, `probabilities` or both for the only tensor: its rows."""
        if len(tensors) != 1:
            raise InputRefused(f"it has one input, and {len(tensors)} were given")
        rows = np.asarray(next(iter(tensors.values())))
        if not self.text_features and rows.dtype != np.float64:
            rows = rows.astype(np.float64)
        results: dict[str, Array] = {}
        for name in wanted or ("prediction",):
            if name == "probabilities":
                results[name] = self.predict_proba(rows)
            elif name == "prediction":
                results[name] = self.predict(rows)
            else:
                raise InputRefused(f"it has no output {name!r}")
        return results

    def sample_rows(self) -> list[Rows]:
        """Return a row of zeros, and one of ones for models that take only positive numbers."""
        return [] if self.features is None else [np.zeros((1, self.features)), np.ones((1, self.features))]


def output_spec(sample: Array) -> TensorSpec:
    """Describe the output `prediction` from a sample of it, of shape (rows,) or (rows, outputs)."""
    unsigned = "UINT64" if sample.dtype.itemsize == 8 else "INT64"  # which holds all that is shorter
    datatype = {"f": "FP64", "i": "INT64", "u": unsigned, "b": "BOOL"}.get(sample.dtype.kind, "BYTES")
    return TensorSpec("prediction", datatype, (-1, *sample.shape[1:]))


def all_finite(values: Array) -> bool:
    """Return whether an array of floats, of any shape, holds neither infinities nor NaN."""
    # For one number, Python's own check takes a tenth of the time.
    return math.isfinite(values.item()) if values.size == 1 else bool(np.isfinite(values).all())


def refuse_rounded(name: str, given: Array, cast: Array) -> None:
    """Refuse whole numbers that came as floats too large to tell one from the next. Raises InputRefused.

    2^53 + 1 is 2^53 as a double, and nothing tells afterwards which of them a client sent.
    """
    if given.dtype.kind == "f" and cast.dtype.kind in "iu" and given.size and np.abs(given).max() >= 2.0**53:
        raise InputRefused(
            f"{name} has whole numbers of 2^53 or more, which rows of numbers can't hold exactly; "
            f"send them as {cast.dtype.name.upper()}, with /v2/models/NAME/infer"
        )
