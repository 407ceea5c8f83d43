"""Compiled at load: the same labels and probabilities as scikit-learn's own, or the original with a reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from modelyard_runtime.dataplane.loading import warm_up
from modelyard_runtime.formats import Compiled, InputRefused, Model, detect, load_model
from sklearn.compose import ColumnTransformer, make_column_selector, make_column_transformer
from sklearn.datasets import make_classification, make_regression
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    ElasticNet,
    Lasso,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    Perceptron,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, LinearSVC, LinearSVR

NUMPY = Compiled("numpy")


def load(folder: Path, estimator: Any) -> Model:
    skops.io.dump(estimator, folder / "model.skops")
    model = load_model(detect(folder))
    warm_up(model)
    return model


def data(classes: int = 3) -> tuple[Any, Any]:
    rows, target = make_classification(
        400, 6, n_informative=4, n_classes=classes, n_clusters_per_class=1, random_state=classes
    )
    return rows * [1, 10, 100, 1, 0.1, 5] + 3, target


def agrees(model: Model, fitted: Any, rows: Any) -> None:
    """Labels to the bit and probabilities by rounding, in one batch and row by row."""
    for batch in (rows, *(rows[at : at + 1] for at in range(20))):
        expected = fitted.predict(batch)
        got = model.predict(batch)
        assert got.dtype == expected.dtype
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(got, expected, rtol=1e-9)
        else:
            np.testing.assert_array_equal(got, expected)
        if hasattr(fitted, "predict_proba"):
            np.testing.assert_allclose(model.predict_proba(batch), fitted.predict_proba(batch), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "make",
    [
        LogisticRegression,
        lambda: LogisticRegressionCV(cv=2, Cs=2, l1_ratios=(0,), use_legacy_attributes=False, scoring="accuracy"),
        lambda: SGDClassifier(loss="log_loss", random_state=0),
        lambda: SGDClassifier(loss="modified_huber", random_state=0),
        lambda: SGDClassifier(random_state=0),
        lambda: Perceptron(random_state=0),
        RidgeClassifier,
        LinearSVC,
    ],
)
def test_linear_classifiers(make: Callable[[], Any], classes: int, tmp_path: Path) -> None:
    rows, target = data(classes)
    fitted = make_pipeline(StandardScaler(), make()).fit(rows, np.array(["a", "b", "c"])[target])

    model = load(tmp_path, fitted)

    assert (model.compiled, model.inline) == (NUMPY, True)
    agrees(model, fitted, rows)


def test_probabilities_are_named_where_there_are_some(tmp_path: Path) -> None:
    rows, target = data()
    model = load(tmp_path, make_pipeline(StandardScaler(), LinearSVC()).fit(rows, target))

    with pytest.raises(InputRefused, match="no probabilities"):
        model.predict_proba(rows)

    assert model.probabilities is None


def test_outputs_by_name(tmp_path: Path) -> None:
    rows, target = data()
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, target)
    model = load(tmp_path, fitted)

    both = model.infer({"features": rows.astype(np.float32)}, ("probabilities", "prediction"))

    assert list(both) == ["probabilities", "prediction"]
    assert list(model.infer({"x": rows})) == ["prediction"]
    assert model.probabilities is not None
    assert model.probabilities.shape == (-1, 3)
    np.testing.assert_allclose(both["probabilities"], fitted.predict_proba(rows), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize(
    "make", [LinearRegression, Ridge, Lasso, ElasticNet, lambda: SGDRegressor(random_state=0), LinearSVR]
)
def test_linear_regressors(make: Callable[[], Any], outputs: int, tmp_path: Path) -> None:
    rows, target = make_regression(200, 6, n_targets=outputs, random_state=0)
    model_of_one = isinstance(make(), (SGDRegressor, LinearSVR))
    target = target[:, 0] if model_of_one and target.ndim == 2 else target
    fitted = make_pipeline(StandardScaler(), make()).fit(rows, target)

    model = load(tmp_path, fitted)

    assert model.compiled == NUMPY
    agrees(model, fitted, rows)


@pytest.mark.parametrize(
    "transformer",
    [
        StandardScaler(with_mean=False),
        StandardScaler(with_std=False),
        MinMaxScaler((-1, 1)),
        MinMaxScaler(clip=True),
        MaxAbsScaler(),
        RobustScaler(),
        RobustScaler(with_centering=False),
        Normalizer("l1"),
        Normalizer("l2"),
        Normalizer("max"),
        Binarizer(threshold=3),
        SimpleImputer(strategy="median"),
        SimpleImputer(missing_values=0, strategy="mean"),
        VarianceThreshold(),
        SelectKBest(k=3),
        FunctionTransformer(np.arctan),
        FunctionTransformer(),
        "passthrough",
    ],
    ids=str,
)
def test_transformers(transformer: Any, tmp_path: Path) -> None:
    rows, target = data()
    rows[:5, 1] = 0
    fitted = make_pipeline(transformer, LogisticRegression(max_iter=2000)).fit(rows, target)

    model = load(tmp_path, fitted)

    assert model.compiled == NUMPY
    agrees(model, fitted, np.vstack([rows, rows * 3, np.zeros((1, 6))]))


@pytest.mark.filterwarnings("ignore:Skipping features")
def test_missing_values_are_filled_in(tmp_path: Path) -> None:
    rows, target = data()
    rows[::3, 2] = np.nan
    rows[:, 5] = np.nan
    fitted = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()).fit(rows, target)

    model = load(tmp_path, fitted)

    assert model.compiled == NUMPY
    agrees(model, fitted, rows)


@pytest.mark.parametrize(
    "encoder",
    [
        OneHotEncoder(handle_unknown="ignore"),
        OneHotEncoder(handle_unknown="ignore", drop="first", sparse_output=False),
        OneHotEncoder(drop="if_binary"),
        OrdinalEncoder(),
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Found unknown categories")
def test_encoders_of_numbers(encoder: Any, tmp_path: Path) -> None:
    rows, target = data()
    rows[:, 0] = np.arange(len(rows)) % 4
    rows[:, 1] = np.arange(len(rows)) % 2
    columns = ColumnTransformer([("kinds", encoder, [1, 0])], remainder=StandardScaler())
    fitted = make_pipeline(columns, LogisticRegression(max_iter=2000)).fit(rows, target)

    model = load(tmp_path, fitted)
    strange = rows + np.array([5, 0, 0, 0, 0, 0])

    assert model.compiled == NUMPY
    agrees(model, fitted, rows)
    if encoder.handle_unknown == "error":
        with pytest.raises(InputRefused, match="unknown categories"):
            model.predict(strange)
    else:
        agrees(model, fitted, strange)


@pytest.mark.parametrize(
    "columns", [[0, 2], slice(0, 3), [True, False, True, False, False, False], [-1], np.array([3, 4])], ids=str
)
def test_columns_by_position(columns: Any, tmp_path: Path) -> None:
    rows, target = data()
    transformer = ColumnTransformer([("a", StandardScaler(), columns), ("b", "passthrough", [5])])
    fitted = make_pipeline(transformer, LogisticRegression(max_iter=2000)).fit(rows, target)

    model = load(tmp_path, fitted)

    assert model.compiled == NUMPY
    agrees(model, fitted, rows)


def frame() -> tuple[pd.DataFrame, Any]:
    rows, target = data()
    table = pd.DataFrame(rows[:, :3], columns=["age", "income", "tenure"])
    table.insert(1, "plan", np.array(["basic", "pro", "team"], dtype=object)[np.arange(len(rows)) % 3])
    return table, target


def named_pipeline(handle_unknown: str = "ignore") -> Any:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    words = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown=handle_unknown))
    columns = ColumnTransformer([("numbers", numbers, ["tenure", "age"]), ("words", words, ["plan"])])
    return make_pipeline(columns, LogisticRegression(max_iter=2000))


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_columns_by_name_take_text_and_numbers(tmp_path: Path) -> None:
    table, target = frame()
    fitted = named_pipeline().fit(table, target)

    model = load(tmp_path, fitted)
    rows = table.to_numpy(dtype=object)

    assert model.compiled == NUMPY
    assert list(model.feature_names or ()) == ["age", "plan", "income", "tenure"]
    assert model.text_features == {1}
    assert model.inputs[0].datatype == "BYTES"
    assert model.predict(rows).tolist() == fitted.predict(table).tolist()
    np.testing.assert_allclose(model.predict_proba(rows), fitted.predict_proba(table))
    np.testing.assert_allclose(model.predict_proba(rows[:1]), fitted.predict_proba(table[:1]))


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_the_original_too_takes_named_columns_from_arrays(tmp_path: Path) -> None:
    table, target = frame()
    fitted = named_pipeline("error").set_params(logisticregression=KNeighborsClassifier()).fit(table, target)

    model = load(tmp_path, fitted)
    rows = table.to_numpy(dtype=object)

    assert model.compiled == Compiled("original", "KNeighborsClassifier has no compiled form")
    assert model.predict(rows).tolist() == fitted.predict(table).tolist()
    rows[0, 1] = "gold"
    with pytest.raises(InputRefused, match="unknown categories"):
        model.predict(rows)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_columns_by_type(tmp_path: Path) -> None:
    table, target = frame()
    columns = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include="number")),
        (OneHotEncoder(), make_column_selector(dtype_include=["object", "str"])),
    )
    fitted = make_pipeline(columns, LogisticRegression(max_iter=2000)).fit(table, target)

    model = load(tmp_path, fitted)

    assert model.compiled == NUMPY
    assert model.predict(table.to_numpy(dtype=object)).tolist() == fitted.predict(table).tolist()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: make_pipeline(PolynomialFeatures(2), RidgeClassifier()), "PolynomialFeatures has no compiled form"),
        (lambda: SVC(kernel="linear"), "SVC has no compiled form"),
        (
            lambda: make_pipeline(SimpleImputer(add_indicator=True), LinearSVC()),
            "SimpleImputer with add_indicator has no compiled form",
        ),
        (
            lambda: make_pipeline(OneHotEncoder(min_frequency=3, handle_unknown="ignore"), LinearSVC()),
            "OneHotEncoder that groups infrequent categories has no compiled form",
        ),
        (lambda: LinearSVC().fit(*data()).sparsify(), "LinearSVC with sparse weights has no compiled form"),
    ],
)
def test_what_has_no_compiled_form_runs_as_it_is(make: Callable[[], Any], reason: str, tmp_path: Path) -> None:
    rows, target = data()
    rows = np.round(rows / 20)
    fitted = make()
    if not hasattr(fitted, "coef_"):
        fitted = fitted.fit(rows, target)

    model = load(tmp_path, fitted)

    assert (model.compiled, model.inline) == (Compiled("original", reason), False)
    agrees(model, fitted, rows)


def test_a_form_that_disagrees_is_not_used(tmp_path: Path) -> None:
    """A file may hold attributes that fitting would never have made."""
    rows, target = data()
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, target)
    fitted[0].scale_ = fitted[0].scale_[:3]

    skops.io.dump(fitted, tmp_path / "model.skops")
    model = load_model(detect(tmp_path))

    assert model.compiled.form == "original"
    assert "compiling failed (ValueError" in model.compiled.reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e308])
def test_values_beyond_the_numbers_get_the_originals_answer(value: float, tmp_path: Path) -> None:
    rows, target = data()
    fitted = make_pipeline(MinMaxScaler(clip=True), StandardScaler(), LogisticRegression()).fit(rows, target)
    model = load(tmp_path, fitted)
    strange = rows[:2].copy()
    strange[0, 0] = value

    try:
        expected = fitted.predict(strange).tolist()
    except ValueError:
        with pytest.raises(InputRefused):
            model.predict(strange)
    else:
        assert model.predict(strange).tolist() == expected


@pytest.mark.parametrize("width", [1, 5, 7])
def test_another_width_is_refused(width: int, tmp_path: Path) -> None:
    rows, target = data()
    model = load(tmp_path, make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, target))

    with pytest.raises(InputRefused, match="features"):
        model.predict(np.zeros((2, width)))
