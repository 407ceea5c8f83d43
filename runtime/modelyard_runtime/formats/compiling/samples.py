"""Rows to check a compiled model on, made from what the fitted model knows of its data."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelyard_runtime.formats.base import Array
from modelyard_runtime.formats.compiling.columns import pipeline_steps, positions, wrapped_estimators

__all__ = ["made_rows"]

_ROWS = 96
_TREES = 20
_SPLITS = 50
_SPREAD = (-2.0, -1.0, -0.25, 0.0, 0.25, 1.0, 2.0)


def made_rows(estimator: Any, features: int, text: frozenset[int]) -> Array:
    """Return rows of values as the model saw them: within its scalers' ranges, of its encoders' categories, around
    its trees' thresholds; of dtype object where there is text.
    """
    random = np.random.default_rng(0)
    known: list[list[Any]] = [[] for _ in range(features)]
    _collect(estimator, known, np.arange(features))
    columns = []
    for index, values in enumerate(known):
        if values and index not in text and not all(isinstance(value, str) for value in values):
            numbers = np.array([float(value) for value in values if not isinstance(value, str)])
            columns.append(random.choice(numbers, _ROWS))
        elif values:
            columns.append(np.array([values[at] for at in random.integers(len(values), size=_ROWS)], dtype=object))
        else:
            columns.append(random.normal(size=_ROWS) * random.choice([0.1, 1.0, 10.0, 100.0], size=_ROWS))
    rows = np.empty((_ROWS, features), dtype=object if text else np.float64)
    for index, column in enumerate(columns):
        rows[:, index] = column
    return rows


def _collect(estimator: Any, known: list[list[Any]], columns: Array) -> None:
    """Note for each column the values that the first steps tell; `columns` are positions in `known`."""
    for step in pipeline_steps(estimator):
        kind = type(step).__name__
        if kind == "ColumnTransformer":
            for _, inner, chosen in step.transformers_:
                if not isinstance(inner, str):
                    _collect(inner, known, columns[positions(step, chosen)])
            return
        if inner := wrapped_estimators(step):
            for wrapped in inner:
                _collect(wrapped, known, columns)
            return
        values = _values(step, len(columns))
        if values is None:
            return
        for column, found in zip(columns, values, strict=True):
            known[column].extend(value for value in found if isinstance(value, str) or np.isfinite(value))
        if kind in {"OneHotEncoder", "OrdinalEncoder"} or len(getattr(step, "statistics_", columns)) != len(columns):
            return


def _values(step: Any, count: int) -> list[list[Any]] | None:
    if hasattr(step, "categories_"):
        return [[value for value in c.tolist() if isinstance(value, (str, int, float))] for c in step.categories_]
    if hasattr(step, "statistics_"):
        return [[value] if isinstance(value, (str, int, float)) else [] for value in step.statistics_.tolist()]
    if hasattr(step, "data_min_"):
        low, high = np.asarray(step.data_min_), np.asarray(step.data_max_)
        return [[a + (b - a) * part for part in (0.0, 0.3, 0.5, 0.7, 1.0)] for a, b in zip(low, high, strict=True)]
    if hasattr(step, "max_abs_"):
        return [[value * part for part in _SPREAD] for value in np.asarray(step.max_abs_)]
    if (splits := _splits(step)) is not None:
        return [[value + part for value in found for part in (-1e-3, 0.0, 1e-3)] for found in splits]
    center = getattr(step, "mean_", getattr(step, "center_", None))
    if isinstance(center, np.ndarray) and center.shape == (count,):
        scale = getattr(step, "scale_", None)
        scale = scale if isinstance(scale, np.ndarray) and scale.shape == (count,) else np.ones(count)
        return [[a + b * part for part in _SPREAD] for a, b in zip(center, scale, strict=True)]
    return None


def _splits(model: Any) -> list[list[float]] | None:
    """Return the thresholds of each feature in a few of the model's trees; None for a model without trees."""
    if not hasattr(model, "n_features_in_"):
        return None
    found: list[list[float]] = [[] for _ in range(int(model.n_features_in_))]
    for estimator in np.ravel(getattr(model, "estimators_", [model]))[:_TREES]:
        tree = getattr(estimator, "tree_", None)
        if tree is None:
            break
        for feature, threshold in zip(tree.feature, tree.threshold, strict=True):
            if feature >= 0 and len(found[feature]) < _SPLITS:
                found[feature].append(float(threshold))
    for stage in getattr(model, "_predictors", [])[:_TREES]:
        for node in stage[0].nodes:
            if not node["is_leaf"] and len(found[node["feature_idx"]]) < _SPLITS:
                found[node["feature_idx"]].append(float(node["num_threshold"]))
    return found if any(found) else None
