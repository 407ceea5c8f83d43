"""The format `logistic`: the class whose probability is highest, of two or of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelyard_runtime.errors import LoadFailed
from modelyard_runtime.formats.base import (
    INDEPENDENT_ROWS,
    Array,
    Compiled,
    InputRefused,
    Rows,
    RowsModel,
    TensorSpec,
    all_finite,
    output_spec,
)
from modelyard_runtime.formats.format import Format
from modelyard_runtime.formats.parameters import Parameters, claim_of_type, read_parameters

__all__ = ["FORMAT", "LogisticModel", "load"]

_OVERFLOW = "its scores overflow; the features are too large"


class LogisticModel(RowsModel):
    """Logistic regression.

    Weights of shape (features,) or (1, features): two classes, the second where sigmoid(w.x + b) > 0.5. Weights of
    shape (classes, features), softmax or one-vs-rest: the class of the largest w.x + b. Labels default to 0, 1, ….
    """

    inline = True
    compiled = Compiled("numpy")
    batching = INDEPENDENT_ROWS

    def __init__(self, parameters: Parameters, labels: Array) -> None:
        self.features: int = parameters.weights.shape[-1]
        self.feature_names: Sequence[str] | None = parameters.feature_names
        self.metadata: Mapping[str, Any] = parameters.metadata
        self.inputs: Sequence[TensorSpec] = (TensorSpec("features", "FP64", (-1, self.features)),)
        self.outputs: Sequence[TensorSpec] = (output_spec(labels),)
        self._binary = parameters.weights.ndim == 1
        self._weights = np.ascontiguousarray(parameters.weights.T)
        self._bias = parameters.bias
        self._labels = labels
        # Most requests are of one row, whose time is numpy's fixed cost for each operation: two labels are ready made.
        self._bias_item = self._bias.item() if self._binary else 0.0
        self._single: list[Array] = [labels[:1].copy(), labels[1:2].copy()] if self._binary else []
        self.probabilities = TensorSpec("probabilities", "FP64", (-1, len(labels)))

    @np.errstate(all="ignore")  # half of what a with statement costs
    def predict(self, rows: Rows) -> Array:
        """Return one label a row, of shape (rows,). Raises InputRefused where the scores overflow."""
        # The sigmoid and the softmax are monotone: the decision needs the scores alone.
        if self._single and len(rows) == 1:
            score = rows.dot(self._weights).item() + self._bias_item
            if not math.isfinite(score):
                raise InputRefused(_OVERFLOW)
            return self._single[int(score > 0)]
        scores = self._scores(rows)
        chosen = (scores > 0).astype(np.intp) if self._binary else scores.argmax(axis=1)
        labels: Array = self._labels[chosen]
        return labels

    def predict_proba(self, rows: Rows) -> Array:
        """Return probabilities of shape (rows, classes): the sigmoid for two classes, else the softmax."""
        scores = self._scores(rows)
        if self._binary:
            scores = np.stack([np.zeros_like(scores), scores], axis=1)  # the softmax of (0, s) is the sigmoid of s
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities: Array = powers / powers.sum(axis=1, keepdims=True)
        return probabilities

    @np.errstate(all="ignore")
    def _scores(self, rows: Rows) -> Array:
        scores: Array = rows @ self._weights + self._bias
        if not all_finite(scores):
            raise InputRefused(_OVERFLOW)
        return scores


def load(path: Path) -> LogisticModel:
    """Load a JSON file. Raises LoadFailed."""
    parameters = read_parameters(path)
    if parameters.weights.ndim == 2 and parameters.weights.shape[0] == 1:
        # scikit-learn writes coef_ of two classes as one row.
        parameters = Parameters(
            parameters.weights[0],
            parameters.bias.reshape(()),
            parameters.classes,
            parameters.feature_names,
            parameters.metadata,
        )
    count = 2 if parameters.weights.ndim == 1 else parameters.weights.shape[0]
    classes = parameters.classes if parameters.classes is not None else tuple(range(count))
    if len(classes) != count:
        raise LoadFailed(f"classes of {path.name} has {len(classes)} labels, and its weights are for {count} classes")
    return LogisticModel(parameters, _labels(classes))


def _labels(classes: Sequence[str | int | float | bool]) -> Array:
    """Return the labels as an array that gives the very same JSON values back."""
    if all(type(label) is int and abs(label) < 2**63 for label in classes):
        return np.array(classes, dtype=np.int64)
    labels = np.empty(len(classes), dtype=object)
    labels[:] = classes
    return labels


FORMAT = Format(
    name="logistic",
    artifact='`model.json` with `"type": "logistic"`',
    claim=claim_of_type("logistic"),
    load=load,
    prediction="a label",
    probabilities="always",
    rows="always",
)
