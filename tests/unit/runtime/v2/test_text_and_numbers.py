"""A model that takes text and numbers reads each column as it was fitted, in every form of tensor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from modelyard_runtime.formats import detect, load_model
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from unit.runtime.support import Api

RANDOM = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {
        "plan": RANDOM.choice(["a", "b"], 200),
        "rooms": RANDOM.integers(1, 4, 200),
        "age": RANDOM.normal(size=200),
    }
)
TARGET = np.where(TABLE["rooms"] == 2, "two", "other")
ASKED = pd.DataFrame({"plan": ["a", "b", "a"], "rooms": [1, 2, 2], "age": [0.1, 0.2, 0.3]})


@pytest.fixture(scope="module")
def fitted() -> Any:
    encoder = OneHotEncoder(handle_unknown="ignore")
    columns = ColumnTransformer([("text", encoder, ["plan", "rooms"]), ("number", StandardScaler(), ["age"])])
    return make_pipeline(columns, LogisticRegression()).fit(TABLE, TARGET)


@pytest.fixture(scope="module")
def api(fitted: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder: Path = tmp_path_factory.mktemp("model")
    skops.io.dump(fitted, folder / "model.skops")
    api = Api({"m": load_model(detect(folder))})
    yield api
    api.app.close()


def infer(api: Api, *inputs: dict[str, Any]) -> Any:
    return api.send("POST", "/v2/models/m/infer", content=json.dumps({"inputs": list(inputs)}).encode())


def tensor(name: str, datatype: str, data: list[Any], *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data}


def test_numbers_sent_as_text_are_numbers_where_the_model_was_fitted_on_numbers(api: Api, fitted: Any) -> None:
    texts = [str(value) for row in ASKED.to_numpy().tolist() for value in row]

    response = infer(api, tensor("features", "BYTES", texts, 3, 3))

    assert response.json()["outputs"][0]["data"] == fitted.predict(ASKED).tolist() == ["other", "two", "two"]


def test_a_tensor_for_each_column_has_the_columns_type(api: Api, fitted: Any) -> None:
    plan = tensor("plan", "BYTES", ASKED["plan"].tolist(), 3)
    rooms = tensor("rooms", "INT64", ASKED["rooms"].tolist(), 3)
    age = tensor("age", "FP64", ASKED["age"].tolist(), 3)

    response = infer(api, plan, rooms, age)

    assert response.json()["outputs"][0]["data"] == fitted.predict(ASKED).tolist()


@pytest.mark.parametrize("text", ["two", "", "1_0", "0x2"])
def test_text_that_is_no_number_is_refused(text: str, api: Api) -> None:
    response = infer(api, tensor("features", "BYTES", ["a", text, "0.5"], 1, 3))

    assert response.status_code == 400
    assert response.json() == {"error": f"features[0][1] is {text!r}, and the model takes a number there"}


def test_numbers_for_text_are_refused(api: Api) -> None:
    plan = tensor("plan", "INT64", [1], 1)

    response = infer(api, plan, tensor("rooms", "INT64", [2], 1), tensor("age", "FP64", [0.5], 1))

    assert response.status_code == 400
    assert response.json() == {"error": "input plan is INT64, and the model takes text there: send BYTES"}
