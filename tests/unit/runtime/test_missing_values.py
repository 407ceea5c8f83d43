"""null is a missing value for models that take missing values, and refused by name for others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import skops.io
import xgboost
from modelyard_runtime.formats import Model, detect, load_model
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from unit.runtime.support import Api

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(200, 2))
TARGET = (ROWS[:, 1] > 0).astype(int)
Ask = Callable[[Model, list[Any]], httpx.Response]


def by_predict(model: Model, row: list[Any]) -> httpx.Response:
    return Api({"m": model}).predict({"features": row})


def by_v1(model: Model, row: list[Any]) -> httpx.Response:
    return Api({"m": model}).predict({"instances": [row]}, "/v1/models/m:predict")


def by_v2(model: Model, row: list[Any]) -> httpx.Response:
    tensor = {"name": "features", "shape": [1, len(row)], "datatype": model.inputs[0].datatype, "data": row}
    return Api({"m": model}).send("POST", "/v2/models/m/infer", content=json.dumps({"inputs": [tensor]}))


def prediction(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    body = response.json()
    if "outputs" in body:
        return body["outputs"][0]["data"][0]
    return body["prediction"] if "prediction" in body else body["predictions"][0]


def sklearn_model(folder: Path, fitted: Any) -> Model:
    skops.io.dump(fitted, folder / "model.skops")
    return load_model(detect(folder))


ways = pytest.mark.parametrize("ask", [by_predict, by_v1, by_v2])


@ways
def test_a_booster_takes_null(ask: Ask, tmp_path: Path) -> None:
    fitted = xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(ROWS, TARGET)
    fitted.save_model(tmp_path / "model.ubj")
    model = load_model(detect(tmp_path))

    found = prediction(ask(model, [None, 1.0]))

    assert found == fitted.predict(np.array([[np.nan, 1.0]]))[0]


@ways
@pytest.mark.parametrize("row", [[None, 1.0], ["a", None], [None, None]])
def test_imputers_take_null_for_numbers_and_text(ask: Ask, row: list[Any], tmp_path: Path) -> None:
    table = pd.DataFrame({"plan": RANDOM.choice(["a", "b"], 200).astype(object), "age": ROWS[:, 1]})
    table.loc[::5, "plan"] = np.nan
    table.loc[::7, "age"] = np.nan
    text = make_pipeline(SimpleImputer(strategy="constant", fill_value="none"), OneHotEncoder())
    fitted = make_pipeline(
        ColumnTransformer([("text", text, ["plan"]), ("number", SimpleImputer(), ["age"])]), LogisticRegression()
    ).fit(table, TARGET)
    asked = pd.DataFrame([row], columns=["plan", "age"]).astype({"plan": object, "age": float}).fillna(np.nan)
    expected = fitted.predict(asked)[0]
    sent = [value if ask is not by_v2 or value is None else str(value) for value in row]

    model = sklearn_model(tmp_path, fitted)

    assert prediction(ask(model, sent)) == expected


@ways
def test_a_model_that_takes_none_names_the_field(ask: Ask, tmp_path: Path) -> None:
    table = pd.DataFrame({"age": ROWS[:, 0], "income": ROWS[:, 1]})
    model = sklearn_model(tmp_path, make_pipeline(StandardScaler(), LogisticRegression()).fit(table, TARGET))

    response = ask(model, [1.0, None])

    assert response.status_code == (422 if ask is by_predict else 400)
    assert "income is missing, and it takes no missing value there" in response.json()["error"]


@pytest.mark.parametrize(("ask", "status"), [(by_predict, 422), (by_v1, 400), (by_v2, 400)])
def test_a_linear_model_takes_numbers_alone(ask: Ask, status: int, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"type": "linear", "weights": [1, 2]}')

    response = ask(load_model(detect(tmp_path)), [None, 1.0])

    assert response.status_code == status
    assert "number" in response.json()["error"]
