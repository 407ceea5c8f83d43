"""The format `xgboost`: a booster as `save_model` writes it, .json or .ubj.

Saved by a classifier of XGBoost's scikit-learn kind, it predicts the class, 0, 1, …; else what `Booster.predict` gives.
`probabilities` has a column a class for classifiers.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from modelyard_runtime.errors import LoadFailed
from modelyard_runtime.formats.base import INDEPENDENT_ROWS, Array, InputRefused, Rows, RowsModel, TensorSpec
from modelyard_runtime.formats.format import ArtifactFile, Claim, Format
from modelyard_runtime.formats.threads import library, thread_count

__all__ = ["FORMAT", "XgboostModel", "load"]

_BINARY = ("binary:logistic",)
_MULTI = ("multi:softprob",)


class XgboostModel(RowsModel):
    """An XGBoost booster; missing values are NaN."""

    batching = INDEPENDENT_ROWS

    def __init__(self, xgboost: Any, booster: Any, config: Mapping[str, Any]) -> None:
        learner = config["learner"]
        self._objective = str(learner["objective"]["name"])
        self._xgboost = xgboost
        self._booster = booster
        self._linear = learner["gradient_booster"]["name"] == "gblinear"
        self._lock = threading.Lock()
        self._wrapped = bool(booster.attr("scikit_learn"))
        self._range = _best(booster) if self._wrapped else (0, 0)
        classifier = self._wrapped and self._objective in (*_BINARY, *_MULTI)
        classes = max(2, int(learner["learner_model_param"].get("num_class", 0)))
        names = booster.feature_names
        self._classifier = classifier
        self.features = int(booster.num_features())
        self.feature_names = tuple(map(str, names)) if names else None
        self.metadata: Mapping[str, Any] = {"objective": self._objective}
        self.inputs: Sequence[TensorSpec] = (TensorSpec("features", "FP64", (-1, self.features)),)
        self.outputs: Sequence[TensorSpec] = (self._output(),)
        if self._objective in (*_BINARY, *_MULTI):
            self.probabilities = TensorSpec("probabilities", "FP64", (-1, classes))

    def predict(self, rows: Rows) -> Array:
        """Return the class of each row for a classifier, else the booster's own prediction."""
        found = self._raw(rows)
        if not self._classifier:
            return found.astype(np.float64)
        return found.argmax(axis=1).astype(np.int64) if found.ndim == 2 else (found > 0.5).astype(np.int64)

    def predict_proba(self, rows: Rows) -> Array:
        """Return probabilities, of shape (rows, classes)."""
        if self.probabilities is None:
            return super().predict_proba(rows)
        found = self._raw(rows)
        # In single precision, as the original's: 1 - p is rounded there too.
        return (found if found.ndim == 2 else np.stack([1.0 - found, found], axis=1)).astype(np.float64)

    def _raw(self, rows: Rows) -> Array:
        if rows.shape[1] != self.features:
            raise InputRefused(f"it takes {self.features} features, and {rows.shape[1]} were given")
        try:
            if self._linear:
                with self._lock:
                    matrix = self._xgboost.DMatrix(rows)
                    return np.asarray(self._booster.predict(matrix, validate_features=False))
            return np.asarray(self._booster.inplace_predict(rows, iteration_range=self._range, validate_features=False))
        except Exception as exc:
            if type(exc).__name__ in {"XGBoostError", "ValueError"}:
                raise InputRefused(_reason(exc)) from None
            raise

    def _output(self) -> TensorSpec:
        sample = self.predict(np.zeros((1, self.features or 1)))
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
    except Exception as exc:
        raise LoadFailed(
            f"{path.name} can't be loaded ({type(exc).__name__}: {_reason(exc)}); "
            "save it again with model.save_model('model.ubj')"
        ) from None


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
    probabilities="`binary:logistic`, `multi:softprob`",
    rows="always",
)
