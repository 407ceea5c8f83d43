"""Formats: predictions as their definitions and scikit-learn give them, and clear refusals of bad files."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard_runtime.dataplane.loading import warm_up
from modelyard_runtime.errors import LoadFailed, StartupFailure, UnsafeArtifact, WarmupFailed
from modelyard_runtime.formats import InputRefused, Model, TensorSpec, detect, load_model
from sklearn.compose import ColumnTransformer, make_column_selector, make_column_transformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    PowerTransformer,
    SplineTransformer,
    StandardScaler,
)


def load_json(folder: Path, data: Any) -> Model:
    (folder / "model.json").write_text(data if isinstance(data, str) else json.dumps(data))
    return load_model(detect(folder))


def load_sklearn(folder: Path, estimator: Any) -> Model:
    skops.io.dump(estimator, folder / "model.skops")
    return load_model(detect(folder))


def test_linear_with_one_output(tmp_path: Path) -> None:
    model = load_json(tmp_path, {"type": "linear", "weights": [2, -1], "bias": 0.5, "feature_names": ["a", "b"]})

    predictions = model.predict(np.array([[1.0, 1.0], [0.0, 3.0]]))

    assert predictions.tolist() == [1.5, -2.5]
    assert (model.features, model.feature_names) == (2, ("a", "b"))
    assert model.inputs == (TensorSpec("features", "FP64", (-1, 2)),)
    assert model.outputs == (TensorSpec("prediction", "FP64", (-1,)),)


def test_linear_with_two_outputs(tmp_path: Path) -> None:
    model = load_json(tmp_path, {"type": "linear", "weights": [[1, 0, 0], [0, 1, 1]], "bias": [0, 10]})

    predictions = model.predict(np.array([[1.0, 2.0, 3.0]]))

    assert predictions.tolist() == [[1.0, 15.0]]
    assert model.outputs == (TensorSpec("prediction", "FP64", (-1, 2)),)


def test_linear_as_scikit_learn_fits_it(tmp_path: Path) -> None:
    rows, target = load_diabetes(return_X_y=True)
    fitted = LinearRegression().fit(rows, target)

    model = load_json(
        tmp_path, {"type": "linear", "weights": fitted.coef_.tolist(), "bias": fitted.intercept_, "metadata": {"r": 1}}
    )

    np.testing.assert_allclose(model.predict(rows), fitted.predict(rows))
    assert model.metadata == {"r": 1}


@pytest.mark.parametrize("count", [2, 3])
def test_logistic_as_scikit_learn_fits_it(count: int, tmp_path: Path) -> None:
    rows, target = load_iris(return_X_y=True)
    rows, target = rows[target < count], target[target < count]
    fitted = LogisticRegression(max_iter=500).fit(rows, target)

    model = load_json(
        tmp_path, {"type": "logistic", "weights": fitted.coef_.tolist(), "bias": fitted.intercept_.tolist()}
    )

    assert model.predict(rows).tolist() == fitted.predict(rows).tolist()


@pytest.mark.parametrize(
    ("classes", "datatype"),
    [(["no", "yes"], "BYTES"), ([0, 1], "INT64"), ([False, True], "BYTES"), ([0.5, 1], "BYTES")],
)
def test_labels_come_back_as_they_were_written(classes: list[Any], datatype: str, tmp_path: Path) -> None:
    model = load_json(tmp_path, {"type": "logistic", "weights": [1.0], "classes": classes})

    labels = model.predict(np.array([[-1.0], [1.0]])).tolist()

    assert list(map(repr, labels)) == list(map(repr, classes))
    assert model.outputs[0].datatype == datatype


def test_scores_that_overflow_are_refused(tmp_path: Path) -> None:
    model = load_json(tmp_path, {"type": "logistic", "weights": [1e300, -1e300]})

    with pytest.raises(InputRefused):
        model.predict(np.array([[1e300, 1e300]]))


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        ({"type": "linear"}, "lacks weights"),
        ({"type": "linear", "weights": []}, "weights of model.json are empty"),
        ({"type": "linear", "weights": "1"}, "numbers only"),
        ({"type": "linear", "weights": [1, "2"]}, "numbers only"),
        ({"type": "linear", "weights": [1, None]}, "numbers only"),
        ({"type": "linear", "weights": [True]}, "numbers only"),
        ({"type": "linear", "weights": {"a": 1}}, "numbers only"),
        ({"type": "linear", "weights": [[1], [1, 2]]}, "different lengths"),
        ({"type": "linear", "weights": [[[1]]]}, "3 dimensions"),
        ({"type": "linear", "weights": 1}, "0 dimensions"),
        ({"type": "linear", "weights": [1], "bias": [1, 2]}, "one number is expected"),
        ({"type": "linear", "weights": [[1], [2]], "bias": [1]}, "one a row of weights"),
        ({"type": "linear", "weights": [1], "bias": "x"}, "bias of model.json"),
        ({"type": "linear", "weights": [1], "bias": None}, "bias of model.json"),
        ({"type": "linear", "weights": [1], "feature_names": "a"}, "list of strings"),
        ({"type": "linear", "weights": [1], "feature_names": ["a", "b"]}, "1 different names"),
        ({"type": "linear", "weights": [1, 2], "feature_names": ["a", "a"]}, "2 different names"),
        ({"type": "linear", "weights": [1], "metadata": []}, "needs to be an object"),
        ({"type": "linear", "weights": [1], "classes": ["a", "b"]}, 'use "type": "logistic"'),
        ({"type": "logistic", "weights": [1], "classes": ["a"]}, "are for 2 classes"),
        ({"type": "logistic", "weights": [[1], [2], [3]], "classes": ["a", "b"]}, "are for 3 classes"),
        ({"type": "logistic", "weights": [1], "classes": ["a", "a"]}, "a label twice"),
        ({"type": "logistic", "weights": [1], "classes": [["a"], "b"]}, "list of strings or numbers"),
        ('{"type": "linear", "weights": [NaN]}', "not valid JSON"),
        ('{"type": "linear", "weights": [1e999]}', "not valid JSON"),
    ],
)
def test_bad_json_models_are_refused(data: Any, advice: str, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed) as caught:
        load_json(tmp_path, data)

    assert advice in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["linear", "logistic"]),
    fields=st.dictionaries(st.sampled_from(["weights", "bias", "classes", "feature_names", "metadata"]), JSON),
)
def test_any_json_model_loads_or_fails_with_a_reason(
    kind: str, fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("model")

    with suppress(StartupFailure):
        model = load_json(folder, {"type": kind, **fields})

        assert len(model.predict(np.ones((1, model.features or 1)))) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: LogisticRegression(max_iter=500),
        lambda: make_pipeline(StandardScaler(), LogisticRegression()),
        lambda: RandomForestClassifier(5, random_state=0),
        lambda: HistGradientBoostingClassifier(max_iter=5),
        lambda: KNeighborsClassifier(algorithm="kd_tree"),
        lambda: make_pipeline(FunctionTransformer(np.log1p), LogisticRegression(max_iter=500)),
    ],
)
def test_scikit_learn_predicts_as_before_it_was_saved(make: Callable[[], Any], tmp_path: Path) -> None:
    rows, target = load_iris(return_X_y=True)
    fitted = make().fit(rows, np.array(["setosa", "versicolor", "virginica"])[target])

    model = load_sklearn(tmp_path, fitted)

    warm_up(model)
    assert model.predict(rows).tolist() == fitted.predict(rows).tolist()
    assert (model.features, model.outputs[0].datatype) == (4, "BYTES")


def test_a_type_that_is_not_scikit_learns_is_unsafe(tmp_path: Path) -> None:
    fitted = make_pipeline(FunctionTransformer(json.loads), LinearRegression())

    with pytest.raises(UnsafeArtifact) as caught:
        load_sklearn(tmp_path, fitted)

    assert "json.decoder" in caught.value.message or "json.loads" in caught.value.message


def test_a_partial_of_a_strange_function_is_unsafe(tmp_path: Path) -> None:
    fitted = make_pipeline(FunctionTransformer(partial(json.dumps, indent=1)), LinearRegression())

    with pytest.raises(UnsafeArtifact, match="json"):
        load_sklearn(tmp_path, fitted)


@pytest.mark.parametrize(
    "name",
    [
        "sklearn.metrics._classification.os.system",
        "sklearn.metrics._ranking._binary_clf_curve",
        "os.system",
        "numpy.memmap",
        "sklearn.utils._testing.TempMemmap",
        "sklearn.datasets._base.Path",
        "builtins.eval",
    ],
)
def test_a_type_that_could_do_harm_is_unsafe(name: str, tmp_path: Path) -> None:
    """A hand-made file: skops would construct whatever type is trusted."""
    skops.io.dump(StandardScaler(), tmp_path / "whole.skops")
    module, _, kind = name.rpartition(".")
    with zipfile.ZipFile(tmp_path / "whole.skops") as whole, zipfile.ZipFile(tmp_path / "model.skops", "w") as bad:
        schema = json.loads(whole.read("schema.json"))
        schema.update({"__module__": module, "__class__": kind})
        bad.writestr("schema.json", json.dumps(schema))
    (tmp_path / "whole.skops").unlink()

    with pytest.raises(UnsafeArtifact) as caught:
        load_model(detect(tmp_path))

    assert name in caught.value.message


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip", b"\x80\x04K\x01."])
def test_a_damaged_skops_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.skops").write_bytes(content)

    with pytest.raises(LoadFailed) as caught:
        load_model(detect(tmp_path))

    assert "save it again with skops.io.dump" in caught.value.message


def test_something_without_predict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed) as caught:
        load_sklearn(tmp_path, StandardScaler().fit([[1.0], [2.0]]))

    assert "StandardScaler, which has no predict" in caught.value.message


def test_a_model_that_was_never_fitted_fails_at_warm_up(tmp_path: Path) -> None:
    model = load_sklearn(tmp_path, make_pipeline(StandardScaler(), LogisticRegression()))
    model.features = 4  # type: ignore[misc]

    with pytest.raises(WarmupFailed) as caught:
        warm_up(model)

    assert "can't predict a row of 4 numbers" in caught.value.message


def test_an_unknown_category_is_the_clients_error_and_not_the_warm_ups(tmp_path: Path) -> None:
    encoder = ColumnTransformer([("plan", OneHotEncoder(), [0])], remainder="passthrough")
    fitted = make_pipeline(encoder, LinearRegression()).fit(np.array([[7, 1], [8, 2], [9, 3]]), [1, 2, 3])
    model = load_sklearn(tmp_path, fitted)

    warm_up(model)

    with pytest.raises(InputRefused, match="unknown categories"):
        model.predict(np.zeros((1, 2)))


def test_a_model_of_positive_numbers_warms_up(tmp_path: Path) -> None:
    rows = np.array([[1.0], [2.0], [3.0]])
    model = load_sklearn(tmp_path, make_pipeline(PowerTransformer("box-cox"), LinearRegression()).fit(rows, [1, 2, 3]))

    warm_up(model)


@pytest.mark.parametrize("scoring", ["roc_auc", "neg_log_loss", "r2", "f1_macro", "adjusted_rand_score"])
def test_a_search_with_a_scorer_of_scikit_learns_is_loaded(scoring: str, tmp_path: Path) -> None:
    rows, target = load_iris(return_X_y=True)
    search = GridSearchCV(LogisticRegression(), {"C": [1, 2]}, scoring=scoring, cv=2)
    fitted = search.fit(rows[:100], target[:100])

    model = load_sklearn(tmp_path, fitted)

    assert model.predict(rows).tolist() == fitted.predict(rows).tolist()


def test_splines_and_column_selectors_are_loaded(tmp_path: Path) -> None:
    rows, target = load_iris(return_X_y=True)
    table = pd.DataFrame(rows, columns=list("abcd"))
    chosen = make_column_transformer((SplineTransformer(), make_column_selector(dtype_include=np.number)))
    fitted = make_pipeline(chosen, LogisticRegression(max_iter=1000)).fit(table, target)

    model = load_sklearn(tmp_path, fitted)

    assert model.predict(rows).tolist() == fitted.predict(table).tolist()
