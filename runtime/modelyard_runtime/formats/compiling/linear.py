"""Linear models as numpy: scores X w + b, and labels and probabilities from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from modelyard_runtime.formats.base import Array, all_finite
from modelyard_runtime.formats.compiling.program import NotCompilable, Step, UseOriginal, kind_of, to_floats

__all__ = ["compile_linear"]

_REGRESSORS = frozenset(
    {
        "ARDRegression", "BayesianRidge", "ElasticNet", "ElasticNetCV", "HuberRegressor", "Lars", "LarsCV", "Lasso",
        "LassoCV", "LassoLars", "LassoLarsCV", "LassoLarsIC", "LinearRegression", "LinearSVR", "MultiTaskElasticNet",
        "MultiTaskElasticNetCV", "MultiTaskLasso", "MultiTaskLassoCV", "OrthogonalMatchingPursuit",
        "OrthogonalMatchingPursuitCV", "PassiveAggressiveRegressor", "QuantileRegressor", "Ridge", "RidgeCV",
        "SGDRegressor", "TheilSenRegressor",
    }
)  # fmt: skip
_CLASSIFIERS = frozenset(
    {
        "LinearSVC", "LogisticRegression", "LogisticRegressionCV", "PassiveAggressiveClassifier", "Perceptron",
        "RidgeClassifier", "RidgeClassifierCV", "SGDClassifier",
    }
)  # fmt: skip


def compile_linear(model: Any) -> tuple[Step, Step | None] | None:
    """Return predict and predict_proba of a fitted linear model, None for another. Raises NotCompilable."""
    kind = kind_of(model)
    if kind not in _REGRESSORS | _CLASSIFIERS:
        return None
    if not isinstance(model.coef_, np.ndarray):
        raise NotCompilable(f"{kind} with sparse weights has no compiled form")
    scores = _scores(model, flatten=kind in _CLASSIFIERS)
    if kind in _REGRESSORS:
        return scores, None
    return _labels(model, scores), _probabilities(kind, model, scores)


def _scores(model: Any, *, flatten: bool) -> Step:
    """X w + b, of shape (rows,) or (rows, outputs). The weights are a view, as the original has them: BLAS then
    adds in the same order."""
    weights = model.coef_.T if model.coef_.ndim == 2 else model.coef_
    bias = model.intercept_
    flat = flatten and weights.ndim == 2 and weights.shape[1] == 1

    @np.errstate(all="ignore")  # half of what a with statement costs
    def run(rows: Array) -> Array:
        scores: Array = to_floats(rows) @ weights + bias
        if not all_finite(scores):
            raise UseOriginal
        return scores.reshape(-1) if flat else scores

    return run


def _single_score(model: Any) -> Callable[[Array], float]:
    """The score of one row, of shape (1, features), for a model that has one: the same to the bit, in fewer steps."""
    weights, bias = model.coef_.T, float(np.ravel(model.intercept_)[0])

    @np.errstate(all="ignore")
    def run(rows: Array) -> float:
        score: float = rows.dot(weights).item() + bias
        if not math.isfinite(score):
            raise UseOriginal
        return score

    return run


def _labels(model: Any, scores: Step) -> Step:
    classes = model.classes_
    if not isinstance(classes, np.ndarray) or classes.ndim != 1:
        raise NotCompilable("a classifier of several outputs has no compiled form")
    many = len(classes) > 2
    if model.coef_.ndim == 2 and len(model.coef_) not in {1, len(classes)}:
        raise NotCompilable("a classifier of several labels a row has no compiled form")

    # Most requests are of one row, whose time is numpy's fixed cost for each operation: two labels are ready made.
    single: list[Array] = [] if many else [classes[:1].copy(), classes[1:2].copy()]
    score = _single_score(model)

    def run(rows: Array) -> Array:
        if single and len(rows) == 1:
            return single[int(score(to_floats(rows)) > 0)]
        values = scores(rows)
        chosen = values.argmax(axis=1) if many else (values > 0).astype(np.intp)
        return np.asarray(classes.take(chosen))

    return run


def _probabilities(kind: str, model: Any, scores: Step) -> Step | None:
    if not callable(getattr(model, "predict_proba", None)):
        return None
    if kind == "SGDClassifier" and model.loss != "log_loss":
        return None  # the original's own
    from scipy.special import expit  # noqa: PLC0415 - formats are imported to find one, which need not be this

    softmax = kind.startswith("LogisticRegression") and getattr(model, "solver", "") != "liblinear"

    def run(rows: Array) -> Array:
        values = scores(rows)
        if values.ndim == 1:
            upper = expit(values)
            return np.stack([1 - upper, upper], axis=1)
        if softmax:
            powers = np.exp(values - values.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))
        # One against the rest: each sigmoid, brought to a sum of one (Zadrozny and Elkan 2002).
        single: Array = expit(values)
        sums = single.sum(axis=1, keepdims=True)
        return np.asarray(np.where(sums > 0, single / np.where(sums > 0, sums, 1), 1 / values.shape[1]))

    return run
