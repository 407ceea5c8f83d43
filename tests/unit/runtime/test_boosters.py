"""LightGBM's and XGBoost's native boosters answer as their libraries do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from modelyard_runtime.dataplane.loading import warm_up
from modelyard_runtime.errors import LoadFailed, UnknownFormat
from modelyard_runtime.formats import InputRefused, Model, detect, load_model
from unit.runtime.test_compiling import data, frame


def load(folder: Path) -> Model:
    model = load_model(detect(folder))
    warm_up(model)
    return model


@pytest.mark.parametrize("classes", [2, 3])
def test_a_lightgbm_classifier(classes: int, tmp_path: Path) -> None:
    rows, target = data(classes)
    fitted = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1).fit(rows, target)
    fitted.booster_.save_model(tmp_path / "model.txt")

    model = load(tmp_path)

    assert (model.features, model.feature_names) == (6, None)
    np.testing.assert_array_equal(model.predict(rows), fitted.booster_.predict(rows))
    np.testing.assert_allclose(model.predict_proba(rows), fitted.predict_proba(rows))
    assert model.outputs[0].shape == ((-1,) if classes == 2 else (-1, 3))
    assert model.probabilities is not None
    assert model.probabilities.shape == (-1, classes)


def test_a_lightgbm_regressor_knows_its_names(tmp_path: Path) -> None:
    table, _ = frame()
    table = table.drop(columns="plan")
    fitted = lightgbm.LGBMRegressor(n_estimators=10, verbose=-1).fit(table, table["age"])
    fitted.booster_.save_model(tmp_path / "churn.txt")

    model = load(tmp_path)

    assert model.feature_names == ("age", "income", "tenure")
    np.testing.assert_array_equal(model.predict(table.to_numpy()), fitted.predict(table))
    with pytest.raises(InputRefused, match="no probabilities"):
        model.predict_proba(table.to_numpy())
    with pytest.raises(InputRefused, match="takes 3 features, and 2"):
        model.predict(np.ones((1, 2)))


@pytest.mark.parametrize("content", ["tree\n", "tree\nversion=v4\n", "tree\nversion=v4\nTree=0\nend of trees\n"])
def test_a_damaged_lightgbm_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text(content)

    with pytest.raises(LoadFailed, match=r"booster\.save_model"):
        load(tmp_path)


@pytest.mark.parametrize("suffix", ["json", "ubj"])
@pytest.mark.parametrize("classes", [2, 3])
def test_an_xgboost_classifier(classes: int, suffix: str, tmp_path: Path) -> None:
    rows, target = data(classes)
    fitted = xgboost.XGBClassifier(n_estimators=10).fit(rows, target)
    fitted.save_model(tmp_path / f"model.{suffix}")

    model = load(tmp_path)

    assert (model.features, model.outputs[0].datatype, model.outputs[0].shape) == (6, "INT64", (-1,))
    assert model.predict(rows).tolist() == fitted.predict(rows).tolist()
    np.testing.assert_array_equal(model.predict_proba(rows), fitted.predict_proba(rows))
    with pytest.raises(InputRefused, match="takes 6 features, and 2"):
        model.predict(np.ones((1, 2)))


def test_an_xgboost_classifier_that_stopped_early(tmp_path: Path) -> None:
    rows, target = data()
    fitted = xgboost.XGBClassifier(n_estimators=200, early_stopping_rounds=2, learning_rate=1)
    fitted.fit(rows[:200], target[:200], eval_set=[(rows[200:], target[200:])], verbose=False)
    fitted.save_model(tmp_path / "model.ubj")

    model = load(tmp_path)

    np.testing.assert_array_equal(model.predict_proba(rows), fitted.predict_proba(rows))


@pytest.mark.parametrize(
    ("objective", "booster"),
    [
        ("binary:logistic", "gbtree"),
        ("multi:softprob", "gbtree"),
        ("multi:softmax", "gbtree"),
        ("reg:squarederror", "gbtree"),
        ("reg:squarederror", "dart"),
        ("reg:squarederror", "gblinear"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_an_xgboost_booster(objective: str, booster: str, tmp_path: Path) -> None:
    rows, target = data(2 if "binary" in objective else 3)
    parameters: dict[str, Any] = {"objective": objective, "booster": booster}
    if "multi" in objective:
        parameters["num_class"] = 3
    names = [f"f{i}" for i in range(6)]
    matrix = xgboost.DMatrix(rows, target, feature_names=names)
    trained = xgboost.train(parameters, matrix, 5)
    trained.save_model(tmp_path / "model.json")

    model = load(tmp_path)

    np.testing.assert_allclose(model.predict(rows), trained.predict(matrix), rtol=1e-6)
    assert model.feature_names == tuple(names)
    assert (model.probabilities is not None) == (objective in {"binary:logistic", "multi:softprob", "multi:softmax"})


@pytest.mark.parametrize(
    ("name", "content"), [("model.json", '{"learner": {}}'), ("model.ubj", "{"), ("model.ubj", ""), ("model.ubj", "x")]
)
def test_a_damaged_xgboost_file_is_refused(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)

    with pytest.raises(LoadFailed, match=r"model.save_model\('model.ubj'\)"):
        load(tmp_path)


@pytest.mark.parametrize(("library", "name", "content"), [("lightgbm", "m.txt", "tree\n"), ("xgboost", "m.ubj", "")])
def test_a_missing_library_names_its_extra(
    library: str, name: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / name).write_text(content)

    with pytest.raises(LoadFailed, match=rf"pip install 'modelyard\[{library}\]'"):
        load(tmp_path)


def test_other_texts_are_no_booster(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("numpy\n")

    with pytest.raises(UnknownFormat, match=r"the artifact holds requirements\.txt"):
        detect(tmp_path)


def test_files_beside_the_model_are_no_matter(tmp_path: Path) -> None:
    rows, target = data(2)
    lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(rows, target).booster_.save_model(tmp_path / "model.txt")
    (tmp_path / "requirements.txt").write_text("numpy\n")
    (tmp_path / "metrics.json").write_text("{}")

    assert detect(tmp_path).format == "lightgbm"


@pytest.mark.parametrize("strategy", ["one_output_per_tree", "multi_output_tree"])
def test_an_xgboost_classifier_of_several_labels_a_row(strategy: str, tmp_path: Path) -> None:
    rows, _ = data()
    labels = (rows[:, :3] > 0).astype(int)
    fitted = xgboost.XGBClassifier(n_estimators=5, multi_strategy=strategy).fit(rows, labels)
    fitted.save_model(tmp_path / "model.ubj")

    model = load(tmp_path)

    assert model.predict(rows).tolist() == fitted.predict(rows).tolist()
    np.testing.assert_array_equal(model.predict_proba(rows), fitted.predict_proba(rows))
    assert (model.outputs[0].shape, model.outputs[0].datatype) == ((-1, 3), "INT64")
    assert model.probabilities is not None
    assert model.probabilities.shape == (-1, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "reg:logistic"},
        {"objective": "binary:logitraw"},
        {"objective": "binary:hinge"},
        {"objective": "reg:squarederror"},
        {"base_score": 0.9},
        {"booster": "dart"},
    ],
    ids=str,
)
def test_an_xgboost_classifier_predicts_as_itself_whatever_its_objective(options: Any, tmp_path: Path) -> None:
    rows, target = data(2)
    fitted = xgboost.XGBClassifier(n_estimators=5, **options).fit(rows, target)
    fitted.save_model(tmp_path / "model.ubj")

    model = load(tmp_path)

    assert model.predict(rows).tolist() == fitted.predict(rows).tolist()
    np.testing.assert_array_equal(model.predict_proba(rows), fitted.predict_proba(rows))


def test_an_xgboost_classifier_with_softmax(tmp_path: Path) -> None:
    rows, target = data(3)
    fitted = xgboost.XGBClassifier(n_estimators=5, objective="multi:softmax").fit(rows, target)
    fitted.save_model(tmp_path / "model.ubj")

    model = load(tmp_path)

    assert model.predict(rows).tolist() == fitted.predict(rows).tolist()
    np.testing.assert_allclose(model.predict_proba(rows), fitted.predict_proba(rows), rtol=1e-6)


def categories(*, text: bool = True, other: str = "b") -> tuple[pd.DataFrame, Any]:
    random = np.random.default_rng(0)
    zips, plans = random.choice([10, 20, 30], 300), random.choice(["a", other], 300)
    table = pd.DataFrame({"zip": pd.Categorical(zips), "age": random.normal(size=300), "plan": pd.Categorical(plans)})
    return table if text else table[["zip", "age"]], (zips == 20) ^ (plans == "a") if text else zips == 20


@pytest.mark.parametrize("text", [True, False])
def test_lightgbm_takes_categories_by_value(text: bool, tmp_path: Path) -> None:
    table, target = categories(text=text, other="é")
    fitted = lightgbm.LGBMClassifier(n_estimators=20, verbose=-1, min_child_samples=5).fit(table, target)
    fitted.booster_.save_model(tmp_path / "model.txt")

    model = load(tmp_path)

    rows = table.astype(object).to_numpy() if text else table.to_numpy(dtype=float)
    np.testing.assert_array_equal(model.predict(rows), fitted.booster_.predict(table))
    assert model.text_features == ({2} if text else frozenset())
    unknown, missing = rows[:1].copy(), rows[:1].copy()
    unknown[0, 0], missing[0, 0] = 40, np.nan
    assert model.predict(unknown).tolist() == model.predict(missing).tolist()


@pytest.mark.parametrize("text", [True, False])
def test_xgboost_takes_categories_by_value(text: bool, tmp_path: Path) -> None:
    table, target = categories(text=text)
    fitted = xgboost.XGBClassifier(n_estimators=10, enable_categorical=True).fit(table, target.astype(int))
    fitted.save_model(tmp_path / "model.ubj")

    model = load(tmp_path)

    rows = table.astype(object).to_numpy() if text else table.to_numpy(dtype=float)
    assert model.predict(rows).tolist() == fitted.predict(table).tolist()
    rows = rows[:1].copy()
    rows[0, 0] = 40
    with pytest.raises(InputRefused, match=r"zip is 40.*none of its categories: 10, 20, 30"):
        model.predict(rows)


def test_xgboost_categories_that_were_cut_short_are_refused(tmp_path: Path) -> None:
    table, target = categories(other="éa")
    fitted = xgboost.XGBClassifier(n_estimators=2, enable_categorical=True).fit(table, target.astype(int))
    fitted.save_model(tmp_path / "model.ubj")

    with pytest.raises(LoadFailed, match="not ASCII"):
        load(tmp_path)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_codes_are_taken_where_the_categories_are_not_known(
    library: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(0)
    rows = np.c_[random.normal(size=300), random.integers(0, 3, 300)]
    if library == "lightgbm":
        fitted: Any = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1)
        fitted.fit(rows, rows[:, 1] == 1, categorical_feature=[1])
        fitted.booster_.save_model(tmp_path / "model.txt")
    else:
        fitted = xgboost.XGBClassifier(n_estimators=5, enable_categorical=True, feature_types=["q", "c"])
        fitted.fit(rows, rows[:, 1] == 1)
        fitted.save_model(tmp_path / "model.ubj")

    model = load(tmp_path)

    assert "send their codes" in caplog.text
    assert np.asarray(model.predict(rows)).shape == (300,)
    for value in (-1.0, 1.5):
        with pytest.raises(InputRefused, match="takes the code of a category"):
            model.predict(np.array([[0.0, value]]))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lightgbm_categories_that_can_not_be_told_apart_are_refused(tmp_path: Path) -> None:
    table, target = categories()
    table["k"] = np.arange(300) % 7
    fitted = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1).fit(table, target, categorical_feature=["k", "zip"])
    fitted.booster_.save_model(tmp_path / "model.txt")

    with pytest.raises(LoadFailed, match="leave categorical_feature out"):
        load(tmp_path)
