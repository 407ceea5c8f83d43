"""Trees and forests compiled at load answer as scikit-learn's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelyard_runtime.formats import Compiled, InputRefused
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier
from unit.runtime.test_compiling import NUMPY, agrees, data, load


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda: DecisionTreeClassifier(random_state=0),
        lambda: ExtraTreeClassifier(random_state=0),
        lambda: RandomForestClassifier(30, random_state=0),
        lambda: ExtraTreesClassifier(30, max_depth=4, random_state=0),
        lambda: GradientBoostingClassifier(n_estimators=20),
        lambda: GradientBoostingClassifier(n_estimators=20, init="zero"),
        lambda: HistGradientBoostingClassifier(max_iter=20),
        lambda: make_pipeline(StandardScaler(), RandomForestClassifier(10, random_state=0)),
    ],
)
def test_classifiers(make: Callable[[], Any], classes: int, tmp_path: Path) -> None:
    rows, target = data(classes)
    fitted = make().fit(rows, np.array(["a", "b", "c"])[target])

    model = load(tmp_path, fitted)

    assert (model.compiled, model.inline) == (NUMPY, False)
    agrees(model, fitted, rows)
    agrees(model, fitted, np.random.default_rng(1).normal(scale=100, size=(300, 6)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: DecisionTreeRegressor(random_state=0),
        lambda: RandomForestRegressor(30, random_state=0),
        lambda: ExtraTreesRegressor(30, random_state=0),
        lambda: GradientBoostingRegressor(n_estimators=20),
        lambda: GradientBoostingRegressor(n_estimators=20, loss="huber"),
        lambda: HistGradientBoostingRegressor(max_iter=20),
        lambda: HistGradientBoostingRegressor(max_iter=20, loss="poisson"),
        lambda: HistGradientBoostingRegressor(max_iter=20, loss="quantile", quantile=0.8),
    ],
)
def test_regressors(make: Callable[[], Any], tmp_path: Path) -> None:
    rows, target = data()
    fitted = make().fit(rows, target + np.abs(rows[:, 0]))

    model = load(tmp_path, fitted)

    assert model.compiled == NUMPY
    agrees(model, fitted, rows)


def test_values_on_a_threshold_go_the_same_way(tmp_path: Path) -> None:
    rows, target = data()
    rows = np.round(rows)
    fitted = RandomForestClassifier(20, random_state=0).fit(rows, target)
    edges = np.concatenate([tree.tree_.threshold[tree.tree_.feature >= 0] for tree in fitted.estimators_])

    model = load(tmp_path, fitted)

    agrees(model, fitted, np.random.default_rng(0).choice(edges, (500, 6)))


def test_missing_values_go_where_histogram_trees_send_them(tmp_path: Path) -> None:
    rows, target = data()
    rows[::3, 0] = np.nan
    rows[::4, 3] = np.nan
    fitted = HistGradientBoostingClassifier(max_iter=20).fit(rows, target)

    model = load(tmp_path, fitted)

    assert model.compiled == NUMPY
    agrees(model, fitted, rows)
    agrees(model, fitted, np.full((20, 6), np.nan))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_what_a_forest_does_not_take_is_refused(value: float, tmp_path: Path) -> None:
    rows, target = data()
    model = load(tmp_path, GradientBoostingClassifier(n_estimators=3).fit(rows, target))
    strange = rows[:1].copy()
    strange[0, 0] = value

    with pytest.raises(InputRefused, match=r"Input X contains|feature 0 is missing"):
        model.predict(strange)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda: HistGradientBoostingClassifier(categorical_features=[0], max_iter=3),
            "histogram trees with categories have no compiled form",
        ),
        (
            lambda: GradientBoostingClassifier(init=LogisticRegression(max_iter=2000), n_estimators=3),
            "GradientBoostingClassifier that starts from another model has no compiled form",
        ),
    ],
)
def test_trees_without_a_compiled_form(make: Callable[[], Any], reason: str, tmp_path: Path) -> None:
    rows, target = data()
    rows[:, 0] = np.arange(len(rows)) % 5
    fitted = make().fit(rows, target % 2 if "Gradient" in reason else target)

    model = load(tmp_path, fitted)

    assert model.compiled == Compiled("original", reason)
    agrees(model, fitted, rows)
