"""Which fitted estimators are known to compute each row by itself."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from modelyard_runtime.formats.base import INDEPENDENT_ROWS, Batching

__all__ = ["batching_of"]

_KNOWN_PACKAGES = ("sklearn", "lightgbm", "xgboost", "catboost")
"""Packages whose estimators treat rows independently, but for `_DEPENDENT`."""
_DATA_PACKAGES = frozenset(
    ("numpy", "scipy", "pandas", "builtins", "collections", "abc", "_thread", "threading", "enum", "ctypes")
)
"""Packages whose objects are data: they compute nothing by themselves."""
_DEPENDENT = {
    "NMF": "it factorizes all rows of a call together",
    "MiniBatchNMF": "it factorizes all rows of a call together",
}


def batching_of(estimator: Any) -> Batching:
    """Return whether an estimator's rows may be gathered: all that it is made of is known to treat them independently.

    Functions of a user's own (`FunctionTransformer`, kernels, tokenizers) and estimators of other packages are not.
    """
    reason = next(_doubts(estimator), "")
    return (
        Batching(False, f"{reason}; where its rows are independent, declare batchable: true")
        if reason
        else (INDEPENDENT_ROWS)
    )


def _doubts(estimator: Any) -> Iterator[str]:
    seen: set[int] = set()
    pending = [estimator]
    while pending:
        item = pending.pop()
        if isinstance(item, (str, bytes, int, float, complex, type(None), np.generic, np.ufunc)) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            pending += item.values()
        elif isinstance(item, (list, tuple, set, frozenset)):
            pending += item
        elif isinstance(item, np.ndarray):
            pending += item.ravel().tolist() if item.dtype == object else []
        elif isinstance(item, functools.partial):
            pending += [item.func, *item.args, *item.keywords.values()]
        elif isinstance(item, type):
            continue  # the class of scores, or of numbers
        else:
            yield from _doubt(item)
            if _package(type(item)) in _KNOWN_PACKAGES:
                pending += getattr(item, "__dict__", {}).values()


def _doubt(item: Any) -> Iterator[str]:
    kind = type(item)
    if callable(item) and hasattr(item, "__qualname__"):
        if _package(item) != "sklearn":
            yield f"it is not known whether the function {item.__qualname__} treats rows independently"
    elif _package(kind) not in (*_KNOWN_PACKAGES, *_DATA_PACKAGES):
        yield f"it is not known whether {kind.__name__} treats rows independently"
    elif kind.__name__ in _DEPENDENT:
        yield f"{kind.__name__} does not treat rows independently: {_DEPENDENT[kind.__name__]}"
    elif (kind.__name__ == "DummyClassifier" and item.strategy in ("stratified", "uniform")) or (
        kind.__name__ == "IterativeImputer" and item.sample_posterior
    ):
        yield f"{kind.__name__} answers at random, by a row's place among the others"


def _package(item: Any) -> str:
    return str(getattr(item, "__module__", None) or "").partition(".")[0]
