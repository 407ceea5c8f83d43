"""The format `sklearn`: any scikit-learn estimator saved with skops, which holds no code.

skops refuses types that it does not know. Of those, the ones that scikit-learn itself defines are let through, and a
few of numpy's and scipy's that fitted estimators hold; never a function, which could be one that runs a string, and
nothing that was defined elsewhere.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelyard_runtime.errors import LoadFailed, UnsafeArtifact
from modelyard_runtime.formats.base import Array, InputRefused, Rows, TensorSpec, output_spec, sample_rows

__all__ = ["SklearnModel", "load"]

_TRUSTED_PACKAGES = ("sklearn.", "numpy.random.", "scipy.interpolate.", "scipy.sparse.", "scipy.stats.")
_NEVER = frozenset({"_testing", "testing", "tests", "conftest", "datasets", "externals", "setup"})
"""Parts of module names below which nothing is trusted: they hold helpers that touch files."""


class SklearnModel:
    """A scikit-learn estimator; `predict` is its own."""

    inline = False

    def __init__(self, estimator: Any) -> None:
        features = getattr(estimator, "n_features_in_", None)
        names = getattr(estimator, "feature_names_in_", None)
        self.features: int | None = None if features is None else int(features)
        self.feature_names: Sequence[str] | None = None if names is None else tuple(map(str, names))
        self.metadata: Mapping[str, Any] = {}
        self._estimator = estimator
        self.inputs: Sequence[TensorSpec] = (TensorSpec("features", "FP64", (-1, self.features or -1)),)
        self.outputs: Sequence[TensorSpec] = (self._find_output(),)

    def predict(self, rows: Rows) -> Array:
        """Return the estimator's predictions, of shape (rows,) or (rows, outputs)."""
        try:
            return np.asarray(self._estimator.predict(rows))
        except ValueError as exc:
            # scikit-learn's word for values that an estimator does not take: an unknown category, a negative count.
            text = str(exc).strip()
            raise InputRefused(text.splitlines()[0][:200] if text else "no reason given") from None

    def _find_output(self) -> TensorSpec:
        classes = getattr(self._estimator, "classes_", None)
        if isinstance(classes, np.ndarray):
            return output_spec(classes)
        for rows in sample_rows(self.features or 1):
            try:
                return output_spec(self.predict(rows))
            except Exception:  # noqa: S112 -- warm-up reports what fails; here it only lacks a description
                continue
        return TensorSpec("prediction", "FP64", (-1,))


def load(path: Path) -> SklearnModel:
    """Load a .skops file. Raises UnsafeArtifact naming the types that are not trusted, LoadFailed."""
    try:
        import skops.io  # noqa: PLC0415 -- an extra, and slow to import: only where a model needs it
    except ImportError:
        raise LoadFailed("this image has no scikit-learn; install modelyard[sklearn]") from None
    try:
        untrusted = skops.io.get_untrusted_types(file=path)
        _refuse_strangers(path, untrusted)
        estimator = skops.io.load(path, trusted=untrusted)
    except (UnsafeArtifact, MemoryError):
        raise
    except Exception as exc:
        raise LoadFailed(
            f"{path.name} can't be loaded ({type(exc).__name__}: {str(exc)[:300]}); "
            "save it again with skops.io.dump, with the versions of scikit-learn and skops that this runtime has"
        ) from None
    if not callable(getattr(estimator, "predict", None)):
        raise LoadFailed(
            f"{path.name} holds a {type(estimator).__name__}, which has no predict; save an estimator or Pipeline"
        )
    # Fitted on a data frame, an estimator warns at each array that it lacks names: here they were put in order before.
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    return SklearnModel(estimator)


def _refuse_strangers(path: Path, types: Sequence[str]) -> None:
    refused = [name for name in types if not _is_trusted(name)]
    if refused:
        raise UnsafeArtifact(
            f"{path.name} holds types that are not scikit-learn's own: {', '.join(refused[:10])}; "
            "build the model from scikit-learn's estimators alone"
        )


def _is_trusted(name: str) -> bool:
    """Whether `name` is a class that was defined, and not only imported, in a trusted package."""
    module_name, _, class_name = name.rpartition(".")
    if not module_name.startswith(_TRUSTED_PACKAGES) or _NEVER.intersection(module_name.split(".")):
        return False
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError):
        return False
    return isinstance(found, type) and (
        found.__module__ == module_name or found.__module__.startswith(_TRUSTED_PACKAGES)
    )
