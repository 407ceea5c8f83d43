"""LightGBM's and XGBoost's native boosters answer as their libraries do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
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
    with pytest.raises(InputRefused, match="number of features"):
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
    assert (model.probabilities is not None) == (objective in {"binary:logistic", "multi:softprob"})


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
