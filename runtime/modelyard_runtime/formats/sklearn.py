"""The format `sklearn`: any scikit-learn estimator saved with skops, which holds no code; a pickle where allowed.

skops refuses types that it does not know. Of those, the ones that scikit-learn itself defines are let through, and a
few of numpy's and scipy's that fitted estimators hold; never a function, which could be one that runs a string, and
nothing that was defined elsewhere.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelyard_runtime.errors import LoadFailed, UnsafeArtifact
from modelyard_runtime.formats.base import Array, Compiled, InputRefused, Rows, RowsModel, TensorSpec, output_spec
from modelyard_runtime.formats.compiling import (
    NotCompilable,
    Program,
    UseOriginal,
    by_position,
    compile_checked,
    first_step,
    made_rows,
    text_columns,
)
from modelyard_runtime.formats.estimators import batching_of
from modelyard_runtime.formats.format import ArtifactFile, Claim, Format
from modelyard_runtime.formats.pickles import read_pickle, why_pickle_is_unsafe
from modelyard_runtime.formats.threads import library
from modelyard_runtime.formats.torchfiles import torch_kind

__all__ = ["FORMAT", "SklearnModel", "load"]

_PICKLES = (".pkl", ".pickle", ".joblib")
_PICKLE_HEADS = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))

_TRUSTED_PACKAGES = ("sklearn.", "numpy.random.", "scipy.interpolate.", "scipy.sparse.", "scipy.stats.")
_TRUSTED_NAMES = frozenset(
    {
        "functools.partial",
        "numpy.dtype",
        "numpy.floating",
        "numpy.integer",
        "numpy.number",
        "scipy._lib.array_api_compat.numpy._aliases.asarray",
        "sklearn.feature_selection._mutual_info.mutual_info_classif",
        "sklearn.feature_selection._mutual_info.mutual_info_regression",
        "sklearn.feature_selection._univariate_selection.chi2",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.feature_selection._univariate_selection.f_regression",
        "sklearn.feature_selection._univariate_selection.r_regression",
        "sklearn.utils.validation.check_array",
    }
)
"""Single names that fitted imputers, selectors, splines and trees hold: they compute, and touch nothing else. What a
partial calls is listed by skops itself, so that it passes only if its function does."""
_METRICS = (
    "sklearn.metrics._classification.",
    "sklearn.metrics._ranking.",
    "sklearn.metrics._regression.",
    "sklearn.metrics.cluster._supervised.",
    "sklearn.metrics.cluster._unsupervised.",
)
"""Modules whose functions are metrics: a search with `scoring` holds one in its scorer. They compute, and no more."""
_NEVER = frozenset({"_testing", "testing", "tests", "conftest", "datasets", "externals", "setup"})
"""Parts of module names below which nothing is trusted: they hold helpers that touch files."""


_VECTORIZERS = ("CountVectorizer", "HashingVectorizer")
"""Classes that take a list of texts, and those that are made from them, as TfidfVectorizer."""


class SklearnModel(RowsModel):
    """A scikit-learn estimator: compiled where its kind is known, its own methods where not."""

    takes_missing = True

    def __init__(self, estimator: Any) -> None:
        # A Pipeline asks its first step, which may be one that is left out.
        features = getattr(estimator, "n_features_in_", getattr(first_step(estimator), "n_features_in_", None))
        names = getattr(estimator, "feature_names_in_", None)
        by_position(estimator)
        self._estimator = estimator
        self._vectorizer = _vectorizer(estimator)
        if self._vectorizer is not None:
            features, names = 1, None  # one text a row
        self.features = None if features is None else int(features)
        self.feature_names = None if names is None else tuple(map(str, names))
        self.text_features = text_columns(estimator) if self._vectorizer is None else frozenset({0})
        self.metadata: Mapping[str, Any] = {}
        self.batching = batching_of(estimator)
        self._program: Program | None = None
        try:
            self._program = compile_checked(estimator, self.features, self.text_features)
            self.compiled = Compiled("numpy")
        except NotCompilable as exc:
            self.compiled = Compiled("original", str(exc))
        self.inline = self._program is not None and self._program.inline
        kind = "BYTES" if self.text_features else "FP64"
        self.inputs: Sequence[TensorSpec] = (TensorSpec("features", kind, (-1, self.features or -1)),)
        self.outputs: Sequence[TensorSpec] = (self._find_output(),)
        self.probabilities = self._find_probabilities()

    def predict(self, rows: Rows) -> Array:
        """Return predictions as the estimator's, of shape (rows,) or (rows, outputs)."""
        program = self._program
        if program is not None and rows.shape[1:] == (program.features,) and len(rows) <= program.max_rows:
            try:
                return program.predict(rows)
            except UseOriginal:
                pass
        return self._ask("predict", rows)

    def predict_proba(self, rows: Rows) -> Array:
        """Return probabilities as the estimator's, of shape (rows, classes)."""
        if self.probabilities is None:
            return super().predict_proba(rows)
        program = self._program
        compiled = program.predict_proba if program is not None else None
        if program is not None and compiled and rows.shape[1:] == (program.features,) and len(rows) <= program.max_rows:
            try:
                return compiled(rows)
            except UseOriginal:
                pass
        return self._ask("predict_proba", rows)

    def sample_rows(self) -> list[Rows]:
        """Return single rows to try the model on; where there is text, of words that it knows."""
        if self._vectorizer is not None:
            words = sorted(getattr(self._vectorizer, "vocabulary_", None) or ["text"], key=str)
            return [np.array([[str(word)]], dtype=object) for word in words[len(words) // 2 :][:1]]
        if not self.text_features or self.features is None:
            return super().sample_rows()
        rows = made_rows(self._estimator, self.features, self.text_features)
        return [rows[:1], rows[1:2]]

    def _ask(self, method: str, rows: Rows) -> Array:
        given = rows
        if self._vectorizer is not None:
            if rows.shape[1:] != (1,) or not all(isinstance(text, str) for text in rows[:, 0].tolist()):
                raise InputRefused("it takes one text a row")
            given = rows[:, 0]
        try:
            return np.asarray(getattr(self._estimator, method)(given))
        except ValueError as exc:
            # scikit-learn's word for values that an estimator does not take: an unknown category, a negative count.
            text = str(exc).strip()
            missing = _missing_feature(rows) if "NaN" in text or "nan" in text else None
            if missing is not None:
                name = self.feature_names[missing] if self.feature_names else f"feature {missing}"
                raise InputRefused(f"{name} is missing, and it takes no missing value there") from None
            raise InputRefused(text.splitlines()[0][:200] if text else "no reason given") from None

    def _find_output(self) -> TensorSpec:
        classes = getattr(self._estimator, "classes_", None)
        if isinstance(classes, np.ndarray):
            return output_spec(classes)
        for rows in self.sample_rows():
            try:
                return output_spec(self.predict(rows))
            except Exception:  # noqa: S112 -- warm-up reports what fails; here it only lacks a description
                continue
        return TensorSpec("prediction", "FP64", (-1,))

    def _find_probabilities(self) -> TensorSpec | None:
        classes = getattr(self._estimator, "classes_", None)
        try:
            has = callable(getattr(self._estimator, "predict_proba", None))
        except Exception:
            has = False  # a property of others' making; an attribute error is what scikit-learn's own raise
        if not has or not isinstance(classes, np.ndarray):
            return None
        return TensorSpec("probabilities", "FP64", (-1, len(classes)))


def _vectorizer(estimator: Any) -> Any:
    """Return the first step of a pipeline that takes texts, each by itself and not a column; None for any other."""
    step = first_step(estimator)
    for kind in type(step).__mro__:
        if kind.__module__ == "sklearn.feature_extraction.text" and kind.__name__ in _VECTORIZERS:
            return step
    return None


def _missing_feature(rows: Rows) -> int | None:
    """Return the position of the first feature that a row lacks; None where no row lacks any."""
    lacking = np.flatnonzero((rows != rows).any(axis=0))  # noqa: PLR0124 -- only NaN differs from itself
    return int(lacking[0]) if len(lacking) else None


def load(path: Path, *, allow_pickle: bool = False) -> SklearnModel:
    """Load a .skops file, or with `allow_pickle` a pickle. Raises UnsafeArtifact, LoadFailed."""
    estimator = _read_skops(path) if path.suffix.lower() == ".skops" else read_pickle(path, allow_pickle=allow_pickle)
    if not callable(getattr(estimator, "predict", None)):
        raise LoadFailed(
            f"{path.name} holds a {type(estimator).__name__}, which has no predict; save an estimator or Pipeline"
        )
    # Fitted on a data frame, an estimator warns at each array that it lacks names: here they were put in order before.
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    return SklearnModel(estimator)


def _read_skops(path: Path) -> Any:
    library("sklearn", "sklearn")
    skops = library("skops.io", "sklearn")
    try:
        untrusted = skops.get_untrusted_types(file=path)
        _refuse_strangers(path, untrusted)
        return skops.load(path, trusted=untrusted)
    except (UnsafeArtifact, MemoryError):
        raise
    except Exception as exc:
        raise LoadFailed(
            f"{path.name} can't be loaded ({type(exc).__name__}: {str(exc)[:300]}); "
            "save it again with skops.io.dump, with the versions of scikit-learn and skops that this runtime has"
        ) from None


def _refuse_strangers(path: Path, types: Sequence[str]) -> None:
    refused = [name for name in types if not _is_trusted(name)]
    if refused:
        raise UnsafeArtifact(
            f"{path.name} holds types that are not scikit-learn's own: {', '.join(refused[:10])}; "
            "build the model from scikit-learn's estimators alone, or save it as a pickle and set "
            "spec.model.allowPickle: true if you trust it"
        )


def _is_trusted(name: str) -> bool:
    """Whether `name` is a class that was defined, and not only imported, in a trusted package."""
    if name in _TRUSTED_NAMES:
        return True
    module_name, _, class_name = name.rpartition(".")
    if not module_name.startswith(_TRUSTED_PACKAGES) or _NEVER.intersection(module_name.split(".")):
        return False
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError):
        return False
    if module_name.startswith(tuple(prefix.removesuffix(".") for prefix in _METRICS)) and inspect.isfunction(found):
        return f"{found.__module__}." in _METRICS and found.__name__ == class_name and not class_name.startswith("_")
    return isinstance(found, type) and (
        found.__module__ == module_name or found.__module__.startswith(_TRUSTED_PACKAGES)
    )


def _claim(file: ArtifactFile) -> Claim:
    if file.suffix == ".skops":
        return Claim.FILE
    if file.suffix in _PICKLES:
        return Claim.CODE
    pickled = file.head.startswith(_PICKLE_HEADS) and torch_kind(file.path) is None
    return Claim.CODE if pickled else Claim.NONE


def _unsafe(path: Path) -> str:
    return "" if path.suffix.lower() == ".skops" else why_pickle_is_unsafe(path)


FORMAT = Format(
    name="sklearn",
    artifact='`*.skops`, as `skops.io.dump(model, "model.skops")` writes it; a pickle needs `allowPickle`',
    claim=_claim,
    load=load,
    unsafe=_unsafe,
    extra="sklearn",
    prediction="as the estimator's `predict`",
    probabilities="where it has `predict_proba`",
    rows="scikit-learn's own estimators; else `batchable`",
)
