"""Pipelines and ColumnTransformers: which step gets which columns, by position."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from modelyard_runtime.formats.base import Array
from modelyard_runtime.formats.compiling.program import NotCompilable, Step, kind_of
from modelyard_runtime.formats.compiling.steps import chain, compile_transformer

__all__ = [
    "by_position",
    "compile_steps",
    "first_step",
    "pipeline_steps",
    "positions",
    "text_columns",
    "wrapped_estimators",
]

_KEEP_COLUMNS = frozenset({"SimpleImputer", "StandardScaler", "MinMaxScaler", "RobustScaler", "MaxAbsScaler"})

_WRAPPERS = {
    **dict.fromkeys(
        ("GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV"), "best_estimator_"
    ),
    **dict.fromkeys(("VotingClassifier", "VotingRegressor", "StackingClassifier", "StackingRegressor"), "estimators_"),
    **dict.fromkeys(
        ("MultiOutputClassifier", "MultiOutputRegressor", "OneVsRestClassifier", "OneVsOneClassifier"), "estimators_"
    ),
    **dict.fromkeys(("SelfTrainingClassifier", "FixedThresholdClassifier", "TunedThresholdClassifierCV"), "estimator_"),
    "CalibratedClassifierCV": "calibrated_classifiers_",
    "TransformedTargetRegressor": "regressor_",
    "FeatureUnion": "transformer_list",
}
"""Wrappers of scikit-learn's, by the attribute that holds what they wrap."""


def pipeline_steps(estimator: Any) -> list[Any]:
    """Return the steps of a Pipeline without those that pass all through, and of pipelines in it; else itself."""
    if type(estimator).__name__ != "Pipeline":
        return [estimator]
    return [
        inner
        for _, step in estimator.steps
        if step is not None and step != "passthrough"
        for inner in pipeline_steps(step)
    ]


def wrapped_estimators(estimator: Any) -> list[Any]:
    """Return the fitted estimators to which one of scikit-learn's wrappers hands its own columns; none for others."""
    found = getattr(estimator, _WRAPPERS.get(type(estimator).__name__, ""), None)
    if found is None:
        return []
    items = found.ravel().tolist() if isinstance(found, np.ndarray) else found if isinstance(found, list) else [found]
    inner = [item[1] if isinstance(item, tuple) else item for item in items]
    return [getattr(item, "estimator", item) if _is_calibrated(item) else item for item in inner if _is_estimator(item)]


def _is_estimator(item: Any) -> bool:
    return item is not None and not isinstance(item, str)


def _is_calibrated(item: Any) -> bool:
    return type(item).__name__ == "_CalibratedClassifier"


def first_step(estimator: Any) -> Any:
    """Return the first step of a Pipeline that does something, else the estimator itself."""
    return next(iter(pipeline_steps(estimator)), estimator)


def compile_steps(steps: list[Any]) -> Step:
    """Return fitted transformers as one step. Raises NotCompilable."""
    compiled = [
        _compile_column_transformer(step) if kind_of(step) == "ColumnTransformer" else compile_transformer(step)
        for step in steps
    ]
    return chain(compiled) if compiled else (lambda rows: rows)


def _compile_column_transformer(transformer: Any) -> Step:
    if transformer.transformer_weights:
        raise NotCompilable("ColumnTransformer with weights has no compiled form")
    parts: list[tuple[Array, Step]] = []
    for _, inner, columns in transformer.transformers_:
        chosen = positions(transformer, columns)
        if isinstance(inner, str) and inner == "drop":
            continue
        if np.isscalar(columns):
            raise NotCompilable("ColumnTransformer that gives a step one column without its axis has no compiled form")
        if len(chosen) == 0:
            continue
        steps = [] if isinstance(inner, str) else pipeline_steps(inner)
        parts.append((chosen, compile_steps(steps)))
    if not parts:
        raise NotCompilable("ColumnTransformer without columns has no compiled form")
    whole = parts[0][1]
    if len(parts) == 1 and np.array_equal(parts[0][0], np.arange(transformer.n_features_in_)):
        return whole

    def run(rows: Array) -> Array:
        return np.concatenate([step(rows.take(chosen, axis=1)) for chosen, step in parts], axis=1)

    return run


def positions(transformer: Any, columns: Any) -> Array:
    """Return the positions of a fitted ColumnTransformer's columns: names, positions, a slice or a mask."""
    count = int(transformer.n_features_in_)
    names = [str(name) for name in getattr(transformer, "feature_names_in_", ())]
    try:
        if isinstance(columns, slice):
            if isinstance(columns.start, str) or isinstance(columns.stop, str):
                # As pandas takes it, the last name belongs to it.
                first = names.index(columns.start) if columns.start is not None else 0
                last = names.index(columns.stop) if columns.stop is not None else count - 1
                columns = slice(first, last + 1, columns.step)
            return np.asarray(np.arange(count)[columns])
        values = np.atleast_1d(np.asarray(columns, dtype=object)).tolist()
        if values and all(isinstance(value, (bool, np.bool_)) for value in values):
            return np.flatnonzero(np.asarray(values, dtype=bool))
        return np.array(
            [names.index(str(value)) if isinstance(value, str) else range(count)[int(value)] for value in values],
            dtype=np.intp,
        )
    except (ValueError, IndexError, TypeError):
        raise NotCompilable("ColumnTransformer has columns that it was not fitted with") from None


def by_position(estimator: Any) -> None:
    """Let fitted ColumnTransformers that select columns by name select them by position, as arrays need it.

    Fitted on data frames, they refuse arrays, which have no names; the names' order is known from fitting.
    """
    for transformer in _column_transformers(estimator):
        try:
            transformer.transformers_ = [
                (name, inner, _resolve(transformer, columns)) for name, inner, columns in transformer.transformers_
            ]
        except (AttributeError, NotCompilable):
            continue


def _resolve(transformer: Any, columns: Any) -> Any:
    if np.isscalar(columns):
        return int(positions(transformer, columns)[0])
    return positions(transformer, columns).tolist()


def _column_transformers(estimator: Any) -> Iterator[Any]:
    for step in pipeline_steps(estimator):
        if type(step).__name__ == "ColumnTransformer":
            yield step
            for _, inner, _ in getattr(step, "transformers_", ()):
                if not isinstance(inner, str):
                    yield from _column_transformers(inner)
        for wrapped in wrapped_estimators(step):
            yield from _column_transformers(wrapped)


def text_columns(estimator: Any) -> frozenset[int]:
    """Return the positions of columns that an encoder of text takes."""
    return frozenset(_text_columns(estimator))


def _text_columns(estimator: Any) -> Iterator[int]:
    for step in pipeline_steps(estimator):
        if type(step).__name__ == "ColumnTransformer":
            for _, inner, columns in getattr(step, "transformers_", ()):
                if not isinstance(inner, str):
                    chosen = positions(step, columns)
                    yield from (int(chosen[index]) for index in _text_columns(inner))
            return
        if inner := wrapped_estimators(step):
            for wrapped in inner:
                yield from _text_columns(wrapped)
            return
        for index, categories in enumerate(getattr(step, "categories_", ())):
            if any(isinstance(category, str) for category in np.asarray(categories).tolist()):
                yield index
        if type(step).__name__ not in _KEEP_COLUMNS:
            return
