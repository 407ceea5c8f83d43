"""Transformers as numpy: each the formula of scikit-learn's `transform`, in its order of operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from modelyard_runtime.formats.base import Array
from modelyard_runtime.formats.compiling.encoders import one_hot_encoder, ordinal_encoder
from modelyard_runtime.formats.compiling.program import NotCompilable, Step, UseOriginal, kind_of, to_floats

__all__ = ["chain", "compile_transformer"]

_SELECTORS = frozenset(
    {
        "GenericUnivariateSelect",
        "RFE",
        "RFECV",
        "SelectFdr",
        "SelectFpr",
        "SelectFromModel",
        "SelectFwe",
        "SelectKBest",
        "SelectPercentile",
        "SequentialFeatureSelector",
        "VarianceThreshold",
    }
)


def compile_transformer(transformer: Any) -> Step:
    """Return the step of a fitted transformer. Raises NotCompilable."""
    kind = kind_of(transformer)
    if kind in _SELECTORS:
        return _columns(np.flatnonzero(transformer.get_support()))
    make = _makers().get(kind)
    if make is None:
        raise NotCompilable(f"{kind} has no compiled form")
    return make(transformer)


def chain(steps: Sequence[Step]) -> Step:
    """Return the steps as one."""
    if len(steps) == 1:
        return steps[0]

    def run(rows: Array) -> Array:
        for step in steps:
            rows = step(rows)
        return rows

    return run


def _makers() -> dict[str, Callable[[Any], Step]]:
    return {
        "StandardScaler": _standard_scaler,
        "MinMaxScaler": _min_max_scaler,
        "MaxAbsScaler": _max_abs_scaler,
        "RobustScaler": _robust_scaler,
        "Normalizer": _normalizer,
        "Binarizer": _binarizer,
        "SimpleImputer": _imputer,
        "FunctionTransformer": _function,
        "OneHotEncoder": one_hot_encoder,
        "OrdinalEncoder": ordinal_encoder,
    }


def _columns(chosen: Array) -> Step:
    return lambda rows: rows.take(chosen, axis=1)


def _standard_scaler(scaler: Any) -> Step:
    """(x - mean) / scale."""
    mean = scaler.mean_ if scaler.with_mean else None
    scale = scaler.scale_ if scaler.with_std else None
    return _shift_and_divide(mean, scale)


def _robust_scaler(scaler: Any) -> Step:
    """(x - center) / scale."""
    center = scaler.center_ if scaler.with_centering else None
    scale = scaler.scale_ if scaler.with_scaling else None
    return _shift_and_divide(center, scale)


def _shift_and_divide(shift: Array | None, scale: Array | None) -> Step:
    def run(rows: Array) -> Array:
        rows = to_floats(rows)
        if shift is not None:
            rows = rows - shift
        return rows / scale if scale is not None else rows

    return run


def _min_max_scaler(scaler: Any) -> Step:
    """x * scale + min, cut off at the feature range where asked."""
    scale, least = scaler.scale_, scaler.min_
    low, high = scaler.feature_range
    if not scaler.clip:
        return lambda rows: np.asarray(to_floats(rows) * scale + least)
    return lambda rows: np.clip(_finite(to_floats(rows)) * scale + least, low, high)


def _max_abs_scaler(scaler: Any) -> Step:
    """x / scale."""
    scale = scaler.scale_
    if not getattr(scaler, "clip", False):
        return lambda rows: np.asarray(to_floats(rows) / scale)
    return lambda rows: np.clip(_finite(to_floats(rows)) / scale, -1.0, 1.0)


def _normalizer(normalizer: Any) -> Step:
    """X / norm of the row; a row of zeros stays as it is."""
    norm = normalizer.norm

    def run(rows: Array) -> Array:
        rows = _finite(to_floats(rows))
        if norm == "l2":
            sizes = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        elif norm == "l1":
            sizes = np.abs(rows).sum(axis=1)
        else:
            sizes = np.abs(rows).max(axis=1)
        sizes[sizes < 10 * np.finfo(np.float64).eps] = 1.0
        return np.asarray(rows / sizes[:, np.newaxis])

    return run


def _binarizer(binarizer: Any) -> Step:
    """1 above the threshold, else 0."""
    threshold = binarizer.threshold
    return lambda rows: (_finite(to_floats(rows)) > threshold).astype(np.float64)


def _function(transformer: Any) -> Step:
    function = transformer.func
    if function is None:
        return lambda rows: rows
    if not isinstance(function, np.ufunc) or function.nin != 1 or function.nout != 1 or transformer.kw_args:
        raise NotCompilable("FunctionTransformer of a Python function has no compiled form")
    ufunc: Callable[[Array], Array] = function
    return lambda rows: ufunc(to_floats(rows))


def _imputer(imputer: Any) -> Step:
    """The column's statistic where a value is missing; columns that were empty at fitting are left out."""
    if imputer.add_indicator:
        raise NotCompilable("SimpleImputer with add_indicator has no compiled form")
    if imputer.statistics_.dtype.kind != "f":
        return _text_imputer(imputer)
    missing = imputer.missing_values
    if not isinstance(missing, (int, float)):
        raise NotCompilable("SimpleImputer for missing values that are not numbers has no compiled form")
    statistics = imputer.statistics_.astype(np.float64)
    kept = np.flatnonzero(~np.isnan(statistics)) if not imputer.keep_empty_features else np.arange(len(statistics))
    if np.isnan(statistics[kept]).any():
        raise NotCompilable("SimpleImputer without a statistic has no compiled form")
    statistics, every = statistics[kept], len(kept) == len(statistics)
    nan = missing != missing  # noqa: PLR0124 -- only NaN differs from itself

    def run(rows: Array) -> Array:
        rows = to_floats(rows)
        if not every:
            rows = rows.take(kept, axis=1)
        absent = np.isnan(rows) if nan else rows == missing
        return np.where(absent, statistics, rows) if absent.any() else rows

    return run


def _text_imputer(imputer: Any) -> Step:
    """Text that is there passes; where some is missing, the original fills it in."""
    if any(not isinstance(value, str) for value in imputer.statistics_) or isinstance(imputer.missing_values, str):
        raise NotCompilable("SimpleImputer of mixed columns has no compiled form")

    def run(rows: Array) -> Array:
        if rows.dtype != object or not all(isinstance(value, str) for value in rows.ravel()):
            raise UseOriginal
        return rows

    return run


def _finite(rows: Array) -> Array:
    """Refuse what the next operation would hide from the check at the end."""
    if not np.isfinite(rows).all():
        raise UseOriginal
    return rows
