"""The format `lightgbm`: a booster as `Booster.save_model` writes it.

The file holds no labels: predictions are what `Booster.predict` gives, the probability of the second class or of each
class for classifiers. `probabilities` has a column a class for these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelyard_runtime.errors import LoadFailed
from modelyard_runtime.formats.base import INDEPENDENT_ROWS, Array, InputRefused, Rows, RowsModel, TensorSpec
from modelyard_runtime.formats.categories import Categories
from modelyard_runtime.formats.format import ArtifactFile, Claim, Format
from modelyard_runtime.formats.threads import library, thread_count

__all__ = ["FORMAT", "LightgbmModel", "load"]

_SUFFIXES = (".txt", ".lgb", ".lightgbm", ".model", ".bst")

_BINARY = ("binary", "cross_entropy", "xentropy")
_MULTI = ("multiclass", "multiclassova", "softmax", "ova", "ovr")


class LightgbmModel(RowsModel):
    """A LightGBM booster; missing values are NaN. Categories are the values of the data frame it was trained on."""

    batching = INDEPENDENT_ROWS
    takes_missing = True

    def __init__(self, booster: Any, objective: str, categorical: Mapping[int, int]) -> None:
        names = [str(name) for name in booster.feature_name()]
        self._booster = booster
        self._threads = thread_count()
        self._binary = objective in _BINARY
        classes = booster.num_model_per_iteration()
        self.features = int(booster.num_feature())
        # Column_0, Column_1, … is what LightGBM writes for an array.
        self.feature_names = None if names == [f"Column_{i}" for i in range(len(names))] else tuple(names)
        self._categories = Categories(
            _values(booster.pandas_categorical, categorical), self.feature_names, refuse_unknown=False
        )
        self._categories.warn()
        self.text_features = self._categories.text
        self.metadata: Mapping[str, Any] = {"objective": objective}
        kind = "BYTES" if self.text_features else "FP64"
        self.inputs: Sequence[TensorSpec] = (TensorSpec("features", kind, (-1, self.features)),)
        shape = (-1,) if classes == 1 else (-1, classes)
        self.outputs: Sequence[TensorSpec] = (TensorSpec("prediction", "FP64", shape),)
        if self._binary or objective in _MULTI:
            self.probabilities = TensorSpec("probabilities", "FP64", (-1, 2 if self._binary else classes))

    def predict(self, rows: Rows) -> Array:
        """Return what the booster's own predict gives: shape (rows,), or (rows, classes)."""
        if rows.shape[1] != self.features:
            raise InputRefused(f"it takes {self.features} features, and {rows.shape[1]} were given")
        rows = self._categories.encode(rows)
        try:
            return np.asarray(self._booster.predict(rows, num_threads=self._threads))
        except Exception as exc:
            # LightGBMError for another number of features; the class can't be named without importing the library.
            if type(exc).__name__ in {"LightGBMError", "ValueError"}:
                raise InputRefused(str(exc).strip().splitlines()[0][:200]) from None
            raise

    def predict_proba(self, rows: Rows) -> Array:
        """Return probabilities, of shape (rows, classes)."""
        if self.probabilities is None:
            return super().predict_proba(rows)
        found = self.predict(rows)
        return np.stack([1 - found, found], axis=1) if self._binary else found

    def sample_rows(self) -> list[Rows]:
        """Return rows of zeros and ones; of empty text where there is text."""
        if not self.text_features:
            return super().sample_rows()
        row = np.zeros((1, self.features or 1), dtype=object)
        row[:, sorted(self.text_features)] = ""
        return [row]


def load(path: Path) -> LightgbmModel:
    """Load a booster's text file. Raises LoadFailed."""
    lightgbm = library("lightgbm", "lightgbm")
    text = path.read_text(errors="replace")
    if not text.startswith("tree\n") or "\nend of trees" not in text:
        # LightGBM itself ends the process for some damaged files.
        raise LoadFailed(f"{path.name} is not a whole booster; save it again with booster.save_model('model.txt')")
    try:
        booster = lightgbm.Booster(model_file=path)
    except Exception as exc:
        raise LoadFailed(
            f"{path.name} can't be loaded ({type(exc).__name__}: {str(exc)[:300]}); "
            "save it again with booster.save_model('model.txt')"
        ) from None
    return LightgbmModel(booster, _objective(text), _categorical(text))


def _objective(text: str) -> str:
    """Read `objective=binary sigmoid:1` from the head of the file."""
    head = text.partition("\nTree=0")[0]
    for line in head.splitlines():
        if line.startswith("objective="):
            return line.removeprefix("objective=").split(" ")[0]
    return ""


def _categorical(text: str) -> dict[int, int]:
    """Return the positions of categorical features, each with its highest code; -1 for one that no tree could use."""
    listed = re.search(r"(?m)^\[categorical_feature: ([0-9,]+)\]$", text)
    infos = re.search(r"(?m)^feature_infos=(.*)$", text)
    kinds = infos[1].split(" ") if infos else []
    return {
        position: max([-1, *(int(code) for code in kinds[position].split(":") if code.lstrip("-").isdigit())])
        for position in (map(int, listed[1].split(",")) if listed else ())
        if position < len(kinds)
    }


def _values(known: Any, categorical: Mapping[int, int]) -> dict[int, Sequence[Any]]:
    """Return the values of each categorical feature's codes, none where the file does not say.

    The file lists the values of the data frame's columns of categories, and not which columns these are: they are the
    categorical features, unless others were named in training. Then their numbers or their codes differ.
    """
    lists = known if isinstance(known, list) else []
    columns = sorted(categorical)
    if len(lists) == len(columns) and all(
        categorical[column] < len(values) for column, values in zip(columns, lists, strict=True)
    ):
        return dict(zip(columns, lists, strict=True))
    if lists:
        raise LoadFailed(
            "its columns of categories are not those named as categorical_feature in training, so the file does not "
            "tell which values their codes stand for; leave categorical_feature out, or train on codes"
        )
    return dict.fromkeys(columns, ())


def _claim(file: ArtifactFile) -> Claim:
    found = file.suffix in _SUFFIXES and file.head.startswith((b"tree\n", b"tree\r"))
    return Claim.FILE if found else Claim.NONE


FORMAT = Format(
    name="lightgbm",
    artifact='`*.txt`, as `booster.save_model("model.txt")` writes it',
    claim=_claim,
    load=load,
    native=True,
    extra="lightgbm",
    prediction="as `Booster.predict`: probabilities for classifiers",
    probabilities="binary and multiclass",
    rows="always",
)
