"""The format `xgboost`: a booster as `save_model` writes it, .json or .ubj.

Saved by an XGBClassifier, it predicts as that does: the class, 0, 1, …, or for several labels a row 0 or 1 for
each, whatever the objective; else what `Booster.predict` gives. `probabilities` has a column a class, or a label.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from modelyard_runtime.errors import LoadFailed
from modelyard_runtime.formats.base import INDEPENDENT_ROWS, Array, InputRefused, Rows, RowsModel, TensorSpec
from modelyard_runtime.formats.categories import Categories
from modelyard_runtime.formats.format import ArtifactFile, Claim, Format
from modelyard_runtime.formats.threads import library, thread_count

__all__ = ["FORMAT", "XgboostModel", "load"]

_PROBABILITIES = ("binary:logistic", "reg:logistic", "multi:softprob", "multi:softmax")
"""Objectives whose predictions, or softmax of margins, are probabilities, whatever wrote the file."""


class XgboostModel(RowsModel):
    """An XGBoost booster; missing values are NaN. Categories are the values of the data frame it was trained on."""

    batching = INDEPENDENT_ROWS
    takes_missing = True

    def __init__(self, xgboost: Any, booster: Any, config: Mapping[str, Any]) -> None:
        learner = config["learner"]
        self._objective = str(learner["objective"]["name"])
        self._xgboost = xgboost
        self._booster = booster
        self._linear = learner["gradient_booster"]["name"] == "gblinear"
        self._lock = threading.Lock()
        self._wrapped = bool(booster.attr("scikit_learn"))
        self._range = _best(booster) if self._wrapped else (0, 0)
        self._classes = max(2, int(learner["learner_model_param"].get("num_class", 0)))
        names = booster.feature_names
        self._classifier = self._wrapped and _estimator_type(booster) == "classifier"
        self.features = int(booster.num_features())
        self.feature_names = tuple(map(str, names)) if names else None
        self._categories = Categories(_categories(booster), self.feature_names, refuse_unknown=True)
        self._categories.warn()
        self.text_features = self._categories.text
        self.metadata: Mapping[str, Any] = {"objective": self._objective}
        kind = "BYTES" if self.text_features else "FP64"
        self.inputs: Sequence[TensorSpec] = (TensorSpec("features", kind, (-1, self.features)),)
        self.outputs: Sequence[TensorSpec] = (self._output(),)
        if self._classifier or self._objective in _PROBABILITIES:
            width = self._proba(self.sample_rows()[0]).shape[1]
            self.probabilities = TensorSpec("probabilities", "FP64", (-1, width))

    def predict(self, rows: Rows) -> Array:
        """Return the class of each row for a classifier, else the booster's own prediction."""
        found = self._raw(rows)
        if not self._classifier:
            return found.astype(np.float64)
        if found.ndim == 2 and self._classes != 2:
            return np.asarray(found.argmax(axis=1).astype(np.int64))
        if self._objective == "multi:softmax":
            return found.astype(np.int64)
        return (found > 0.5).astype(np.int64)  # of shape (rows, labels) for several labels a row

    def predict_proba(self, rows: Rows) -> Array:
        """Return probabilities, of shape (rows, classes), or (rows, labels) for several labels a row."""
        return self._proba(rows) if self.probabilities is not None else super().predict_proba(rows)

    def _proba(self, rows: Rows) -> Array:
        if self._objective == "multi:softmax":
            margins = self._raw(rows, margin=True).astype(np.float64)
            powers = np.exp(margins - margins.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))
        found = self._raw(rows)
        # In single precision, as the original's: 1 - p is rounded there too.
        return (found if found.ndim == 2 else np.stack([1.0 - found, found], axis=1)).astype(np.float64)

    def _raw(self, rows: Rows, *, margin: bool = False) -> Array:
        if rows.shape[1] != self.features:
            raise InputRefused(f"it takes {self.features} features, and {rows.shape[1]} were given")
        rows = self._categories.encode(rows)
        try:
            if self._linear:
                with self._lock:
                    matrix = self._xgboost.DMatrix(rows)
                    return np.asarray(self._booster.predict(matrix, output_margin=margin, validate_features=False))
            return np.asarray(
                self._booster.inplace_predict(
                    rows,
                    iteration_range=self._range,
                    predict_type="margin" if margin else "value",
                    validate_features=False,
                )
            )
        except Exception as exc:
            if type(exc).__name__ in {"XGBoostError", "ValueError"}:
                raise InputRefused(_reason(exc)) from None
            raise

    def sample_rows(self) -> list[Rows]:
        """Return a row of zeros, and of each column's first category."""
        row = np.zeros((1, self.features or 1), dtype=object if self.text_features else np.float64)
        for column, values in self._categories.values.items():
            row[0, column] = values[0] if values else 0
        return [row]

    def _output(self) -> TensorSpec:
        sample = self.predict(self.sample_rows()[0])
        datatype = "INT64" if self._classifier else "FP64"
        return TensorSpec("prediction", datatype, (-1, *sample.shape[1:]))


def load(path: Path) -> XgboostModel:
    """Load a booster. Raises LoadFailed."""
    xgboost = library("xgboost", "xgboost")
    try:
        with xgboost.config_context(verbosity=0):
            booster = xgboost.Booster(model_file=str(path))
        booster.set_param({"nthread": thread_count()})
        return XgboostModel(xgboost, booster, orjson.loads(booster.save_config()))
    except LoadFailed:
        raise
    except Exception as exc:
        raise LoadFailed(
            f"{path.name} can't be loaded ({type(exc).__name__}: {_reason(exc)}); "
            "save it again with model.save_model('model.ubj')"
        ) from None


def _categories(booster: Any) -> dict[int, Sequence[Any]]:
    """Return the categories of each categorical feature, as a data frame had them; none where the file has none."""
    columns = [position for position, kind in enumerate(booster.feature_types or ()) if kind == "c"]
    if not columns:
        return {}
    model = orjson.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]
    encoded = model.get("cats", {}).get("enc", [])
    return {column: _decoded(encoded[column]) if column < len(encoded) else () for column in columns}


def _decoded(encoded: Mapping[str, Any]) -> Sequence[Any]:
    """Read one column's categories: whole numbers, or the bytes of texts with the offset of each."""
    values, offsets = encoded["values"], encoded.get("offsets")
    if offsets is None:
        return tuple(values)
    if any(not 0 <= value < 128 for value in values):
        # XGBoost takes the number of characters for that of bytes, and cuts what is not ASCII short.
        raise LoadFailed(
            "it has categories that are not ASCII, of which XGBoost writes a part only; rename them, or train on codes"
        )
    raw = bytes(values)
    return tuple(raw[start:end].decode() for start, end in itertools.pairwise(offsets))


def _estimator_type(booster: Any) -> str:
    """Return which of XGBoost's scikit-learn kinds wrote the file: classifier, regressor or ranker."""
    try:
        written = orjson.loads(booster.attr("scikit_learn") or "{}")
    except orjson.JSONDecodeError:
        return ""
    return str(written.get("_estimator_type", "")) if isinstance(written, dict) else ""


def _best(booster: Any) -> tuple[int, int]:
    """Return the rounds that the scikit-learn kind uses: up to the best one where training stopped early."""
    best = booster.attr("best_iteration")
    return (0, int(best) + 1) if best is not None and str(best).isdigit() else (0, 0)


def _reason(exc: Exception) -> str:
    """Return the first line of XGBoost's message, without its place in XGBoost's sources."""
    lines = str(exc).strip().splitlines()
    first = next((line for line in lines if line.strip()), "no reason given")
    return first.rpartition("Check failed: ")[2][:300]


def _claim(file: ArtifactFile) -> Claim:
    if file.suffix == ".bst":  # KServe's name; its older binary format is refused at load, with advice
        return Claim.NONE if file.head.startswith(b"tree") else Claim.FILE
    if file.suffix in (".model", ".xgb") and re.match(rb'\{(L.{8}learner|\s*"learner")', file.head, re.DOTALL):
        return Claim.FILE
    if file.suffix == ".ubj" or (file.name == "model.json" and isinstance(file.json.get("learner"), dict)):
        return Claim.FILE
    return Claim.ANY_NAME if isinstance(file.json.get("learner"), dict) else Claim.NONE


FORMAT = Format(
    name="xgboost",
    artifact='`*.ubj` or `*.json`, as `model.save_model("model.ubj")` writes it',
    claim=_claim,
    load=load,
    native=True,
    extra="xgboost",
    prediction="the class for an `XGBClassifier`, else as `Booster.predict`",
    probabilities="an `XGBClassifier`; else `binary:logistic`, `reg:logistic`, `multi:*`",
    rows="always",
)
