"""Trees and forests as numpy: all trees go down one level at a time, for all rows at once.

The nodes of all trees lie in flat arrays; a leaf is its own child, so that every tree can take as many steps as the
deepest. One row through a hundred trees is then a few array operations a level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelyard_runtime.formats.base import Array
from modelyard_runtime.formats.compiling.program import NotCompilable, Step, UseOriginal, kind_of, to_floats

__all__ = ["compile_trees"]

_CHUNK = 1 << 16
"""Rows times trees that are computed at once: more would not stay in the processor's cache."""


@dataclass(frozen=True)
class _Tree:
    """One tree: node i goes to `right[i]` where x[feature[i]] > threshold[i], else to `left[i]`; a leaf has left -1."""

    feature: Array
    threshold: Array
    left: Array
    right: Array
    missing_left: Array
    values: Array


def compile_trees(model: Any) -> tuple[Step, Step | None, int] | None:
    """Return predict, predict_proba and the number of trees of a fitted model of trees, None for another model.

    Raises NotCompilable.
    """
    kind = kind_of(model)
    if kind in {"DecisionTreeClassifier", "ExtraTreeClassifier", "RandomForestClassifier", "ExtraTreesClassifier"}:
        return _forest_classifier(model)
    if kind in {"DecisionTreeRegressor", "ExtraTreeRegressor", "RandomForestRegressor", "ExtraTreesRegressor"}:
        return _forest_regressor(model)
    if kind in {"GradientBoostingClassifier", "GradientBoostingRegressor"}:
        return _boosted(model, _gradient_boosting(model), at_zero=True)
    if kind in {"HistGradientBoostingClassifier", "HistGradientBoostingRegressor"}:
        return _boosted(model, _histogram_boosting(model), at_zero=False)
    return None


def _forest_classifier(model: Any) -> tuple[Step, Step, int]:
    """The class of the largest mean probability."""
    trees = _trees_of(model)
    classes = model.classes_
    leaves = _leaves(trees, single_precision=True)
    count = len(trees)

    def probabilities(rows: Array) -> Array:
        sums = leaves(rows).sum(axis=1)
        return np.asarray(sums / count) if count > 1 else sums

    def predict(rows: Array) -> Array:
        return np.asarray(classes.take(probabilities(rows).argmax(axis=1)))

    return predict, probabilities, count


def _forest_regressor(model: Any) -> tuple[Step, None, int]:
    """The mean of the trees."""
    trees = _trees_of(model)
    leaves = _leaves(trees, single_precision=True)
    count = len(trees)
    return (lambda rows: np.asarray(leaves(rows)[:, :, 0].sum(axis=1) / count)), None, count


def _trees_of(model: Any) -> list[_Tree]:
    if model.n_outputs_ != 1:
        raise NotCompilable("trees with several outputs have no compiled form")
    return [_from_tree(estimator.tree_) for estimator in getattr(model, "estimators_", [model])]


def _from_tree(tree: Any, scale: float | None = None) -> _Tree:
    """Read scikit-learn's Tree; its values are the classes' shares, or the target's mean."""
    values = tree.value[:, 0, :]
    return _Tree(
        feature=tree.feature,
        threshold=tree.threshold,
        left=tree.children_left,
        right=tree.children_right,
        missing_left=np.zeros(len(values), dtype=bool),
        values=values if scale is None else values * scale,
    )


@dataclass(frozen=True)
class _Stages:
    """Boosted trees: scores = base + the sum over stages, one tree a class (one in all for two) in each."""

    base: Array
    trees: Sequence[Sequence[_Tree]]
    single_precision: bool


def _gradient_boosting(model: Any) -> _Stages:
    initial = model.init_
    if not isinstance(initial, str) and not type(initial).__name__.startswith("Dummy"):
        raise NotCompilable(f"{type(model).__name__} that starts from another model has no compiled form")
    base = model._raw_predict_init(np.zeros((1, model.n_features_in_), dtype=np.float32))
    stages = [[_from_tree(tree.tree_, model.learning_rate) for tree in stage] for stage in model.estimators_]
    return _Stages(np.asarray(base[0], dtype=np.float64), stages, single_precision=True)


def _histogram_boosting(model: Any) -> _Stages:
    if getattr(model, "_preprocessor", None) is not None:
        raise NotCompilable("histogram trees with categories have no compiled form")
    stages = [[_from_nodes(predictor.nodes) for predictor in stage] for stage in model._predictors]
    base = np.asarray(model._baseline_prediction, dtype=np.float64).reshape(-1)
    return _Stages(base, stages, single_precision=False)


def _from_nodes(nodes: Array) -> _Tree:
    """Read the nodes of a histogram tree, whose leaves are marked and hold the learning rate already."""
    leaf = nodes["is_leaf"].astype(bool)
    if nodes["is_categorical"][~leaf].any():
        raise NotCompilable("histogram trees with categories have no compiled form")
    return _Tree(
        feature=nodes["feature_idx"].astype(np.intp),
        threshold=nodes["num_threshold"].astype(np.float64),
        left=np.where(leaf, -1, nodes["left"].astype(np.intp)),
        right=np.where(leaf, -1, nodes["right"].astype(np.intp)),
        missing_left=nodes["missing_go_to_left"].astype(bool),
        values=nodes["value"].astype(np.float64)[:, np.newaxis],
    )


def _boosted(model: Any, stages: _Stages, *, at_zero: bool) -> tuple[Step, Step | None, int]:
    """Labels, numbers and probabilities from the scores. A score of 0 is the second class where `at_zero`."""
    width = len(stages.base)
    trees = [tree for stage in stages.trees for tree in stage]
    leaves = _leaves(trees, single_precision=stages.single_precision)
    loss = model._loss

    def scores(rows: Array) -> Array:
        found = leaves(rows).reshape(len(rows), -1, width)
        first = np.broadcast_to(stages.base, (len(rows), 1, width))
        # In the original's order: a pairwise sum would round otherwise.
        total: Array = np.add.accumulate(np.concatenate([first, found], axis=1), axis=1)[:, -1]
        return total

    if not hasattr(model, "classes_"):
        link: Callable[[Array], Array] = loss.link.inverse if not at_zero else (lambda raw: raw)
        return (lambda rows: np.asarray(link(scores(rows)[:, 0]))), None, len(trees)
    classes = model.classes_

    def predict(rows: Array) -> Array:
        raw = scores(rows)
        if width > 1:
            return np.asarray(classes[raw.argmax(axis=1)])
        return np.asarray(classes[((raw[:, 0] >= 0) if at_zero else (raw[:, 0] > 0)).astype(np.intp)])

    def probabilities(rows: Array) -> Array:
        raw = scores(rows)
        return np.asarray(loss.predict_proba(raw if width > 1 or at_zero else raw[:, 0]))

    return predict, probabilities if callable(getattr(model, "predict_proba", None)) else None, len(trees)


def _leaves(trees: Sequence[_Tree], *, single_precision: bool) -> Step:
    """Return the function from rows to the values of the leaves they reach, of shape (rows, trees, values)."""
    starts = np.cumsum([0, *(len(tree.left) for tree in trees)])
    left = np.concatenate([_moved(tree.left, start) for tree, start in zip(trees, starts, strict=False)])
    right = np.concatenate([_moved(tree.right, start) for tree, start in zip(trees, starts, strict=False)])
    feature = np.concatenate([tree.feature for tree in trees]).astype(np.intp)
    threshold = np.concatenate([tree.threshold for tree in trees]).astype(np.float64)
    missing_left = np.concatenate([tree.missing_left for tree in trees])
    values = np.concatenate([tree.values for tree in trees])
    leaf = left < 0
    own = np.arange(len(left))
    feature[leaf] = 0
    threshold[leaf] = np.inf
    children = np.empty(2 * len(left), dtype=np.intp)
    children[0::2] = np.where(leaf, own, left)
    children[1::2] = np.where(leaf, own, right)
    levels = _depth(children, leaf, starts[:-1])
    roots = starts[:-1].astype(np.intp)

    def walk(rows: Array) -> Array:
        flat = rows.ravel()
        missing = np.isnan(flat).any() if not single_precision else False
        offsets = (np.arange(len(rows), dtype=np.intp) * rows.shape[1])[:, np.newaxis]
        at = np.broadcast_to(roots, (len(rows), len(roots)))
        for _ in range(levels):
            value = flat.take(feature.take(at) + offsets)
            right_of = value > threshold.take(at)
            if missing:
                right_of |= np.isnan(value) & ~missing_left.take(at)
            at = children.take(2 * at + right_of)
        return values.take(at, axis=0)

    size = max(1, _CHUNK // len(roots))

    def run(rows: Array) -> Array:
        rows = to_floats(rows)
        if single_precision:
            with np.errstate(over="ignore"):
                rows = rows.astype(np.float32)
            if not np.isfinite(rows).all():
                raise UseOriginal
            rows = rows.astype(np.float64)
        if len(rows) <= size:
            return walk(rows)
        return np.concatenate([walk(rows[start : start + size]) for start in range(0, len(rows), size)])

    return run


def _moved(children: Array, start: int) -> Array:
    return np.where(children < 0, -1, children + start)


def _depth(children: Array, leaf: Array, roots: Array) -> int:
    """Return how many steps the deepest tree needs. Raises NotCompilable for one that comes back to itself."""
    level, depth = roots[~leaf[roots]], 0
    while len(level):
        depth += 1
        if depth > len(leaf):
            raise NotCompilable("its trees are damaged")
        level = np.concatenate([children[2 * level], children[2 * level + 1]])
        level = level[~leaf[level]]
    return depth
