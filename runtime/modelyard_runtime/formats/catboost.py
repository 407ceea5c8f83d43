"""The format `catboost`: a model as `save_model` writes it, .cbm.

It predicts as the class of CatBoost's that its loss is for: labels for a classifier, numbers for a regressor, with the
exponent that losses of counts need, and scores for a ranker. Categories and texts are text; missing numbers are NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelyard_runtime.errors import LoadFailed
from modelyard_runtime.formats.base import (
    INDEPENDENT_ROWS,
    Array,
    InputRefused,
    Rows,
    RowsModel,
    TensorSpec,
    output_spec,
)
from modelyard_runtime.formats.format import ArtifactFile, Claim, Format
from modelyard_runtime.formats.threads import library, thread_count

__all__ = ["FORMAT", "CatboostModel", "load"]

_MAGIC = b"CBM1"
_REFUSALS = {"CatBoostError", "TypeError", "ValueError"}


class CatboostModel(RowsModel):
    """A CatBoost model."""

    batching = INDEPENDENT_ROWS
    takes_missing = True

    def __init__(self, model: Any) -> None:
        names = [str(name) for name in model.feature_names_]
        labels = np.asarray(model.classes_)
        self._model = model
        self._threads = thread_count()
        self._classifier = len(labels) > 0
        self._single_label = _loss(model) not in {"MultiLogloss", "MultiCrossEntropy"}
        self.features = len(names)
        # 0, 1, … is what CatBoost writes for an array.
        self.feature_names = None if names == [str(i) for i in range(len(names))] else tuple(names)
        self.text_features = frozenset([*model.get_cat_feature_indices(), *model.get_text_feature_indices()])
        self.metadata: Mapping[str, Any] = {"objective": _loss(model)}
        kind = "BYTES" if self.text_features else "FP64"
        self.inputs: Sequence[TensorSpec] = (TensorSpec("features", kind, (-1, self.features)),)
        self.outputs: Sequence[TensorSpec] = (output_spec(self.predict(self.sample_rows()[0])),)
        if self._classifier:
            self.probabilities = TensorSpec("probabilities", "FP64", (-1, len(labels)))

    def predict(self, rows: Rows) -> Array:
        """Return what the class of CatBoost's predicts: shape (rows,), or (rows, outputs)."""
        found = self._ask(self._model.predict, rows)
        return found[:, 0] if self._classifier and self._single_label and found.ndim == 2 else found

    def predict_proba(self, rows: Rows) -> Array:
        """Return probabilities, of shape (rows, classes)."""
        if self.probabilities is None:
            return super().predict_proba(rows)
        return self._ask(self._model.predict_proba, rows)

    def sample_rows(self) -> list[Rows]:
        """Return a row of zeros, and of empty text where there is text."""
        row = np.zeros((1, self.features or 1), dtype=object if self.text_features else np.float64)
        if self.text_features:
            row[:, sorted(self.text_features)] = ""
        return [row]

    def _ask(self, method: Any, rows: Rows) -> Array:
        if rows.shape[1] != self.features:
            raise InputRefused(f"it takes {self.features} features, and {rows.shape[1]} were given")
        try:
            return np.asarray(method(rows, thread_count=self._threads))
        except Exception as exc:
            if type(exc).__name__ in _REFUSALS:
                raise InputRefused(str(exc).strip().splitlines()[0][:200]) from None
            raise


def load(path: Path) -> CatboostModel:
    """Load a .cbm file. Raises LoadFailed."""
    catboost = library("catboost", "catboost")
    try:
        model = catboost.CatBoost().load_model(path, format="cbm")
        # Its classes know how each loss is predicted, and the file does not say which of them wrote it. A regressor
        # gives the scores of a ranker, too.
        kind = catboost.CatBoostClassifier if len(model.classes_) else catboost.CatBoostRegressor
        model = kind().load_model(path, format="cbm")
    except Exception as exc:
        raise LoadFailed(
            f"{path.name} can't be loaded ({type(exc).__name__}: {str(exc)[:300]}); "
            "save it again with model.save_model('model.cbm')"
        ) from None
    if model.get_embedding_feature_indices():
        raise LoadFailed(f"{path.name} has features that are embeddings, which can't be served; train it without them")
    return CatboostModel(model)


def _loss(model: Any) -> str:
    return str(model.get_all_params().get("loss_function", ""))


def _claim(file: ArtifactFile) -> Claim:
    return Claim.FILE if file.suffix == ".cbm" or file.head.startswith(_MAGIC) else Claim.NONE


FORMAT = Format(
    name="catboost",
    artifact='`*.cbm`, as `model.save_model("model.cbm")` writes it',
    claim=_claim,
    load=load,
    native=True,
    extra="catboost",
    prediction="the label of a classifier, else as `CatBoostRegressor.predict`, or a ranker's score",
    probabilities="classifiers",
    rows="always",
)
