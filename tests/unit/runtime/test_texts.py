"""A pipeline that begins with a vectorizer takes one text a row over every protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import skops.io
from modelyard_runtime.dataplane.loading import warm_up
from modelyard_runtime.formats import Model, detect, load_model
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from unit.runtime.support import Api

TEXTS, TARGET = ["good great", "bad awful"] * 20, ["pos", "neg"] * 20


@pytest.fixture(scope="module", params=[CountVectorizer, HashingVectorizer, TfidfVectorizer])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("model")
    skops.io.dump(make_pipeline(request.param(), LogisticRegression()).fit(TEXTS, TARGET), folder / "model.skops")
    return load_model(detect(folder))


@pytest.fixture(scope="module")
def api(model: Model) -> Iterator[Api]:
    api = Api({"m": model})
    yield api
    api.app.close()


def test_it_warms_up_and_describes_itself(api: Api, model: Model) -> None:
    warm_up(model)

    assert api.send("GET", "/v2/models/m").json()["inputs"] == [
        {"name": "features", "datatype": "BYTES", "shape": [-1, 1]}
    ]


@pytest.mark.parametrize("features", ["good great", ["good great"]])
def test_one_text(features: Any, api: Api) -> None:
    assert api.predict({"features": features}).json()["prediction"] == "pos"


@pytest.mark.parametrize("path", ["/predict/batch", "/v1/models/m:predict"])
@pytest.mark.parametrize("instances", [["good", "bad"], [["good"], ["bad"]]])
def test_texts(instances: Any, path: str, api: Api) -> None:
    assert api.predict({"instances": instances}, path).json()["predictions"] == ["pos", "neg"]


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_a_tensor_of_texts(shape: list[int], api: Api) -> None:
    tensor = {"name": "features", "shape": shape, "datatype": "BYTES", "data": ["good", "bad"]}

    response = api.send("POST", "/v2/models/m/infer", content=json.dumps({"inputs": [tensor]}))

    assert response.json()["outputs"][0] == {
        "name": "prediction",
        "shape": [2],
        "datatype": "BYTES",
        "data": ["pos", "neg"],
    }


@pytest.mark.parametrize("features", [[0.0], [None], ["a", "b"], 1])
def test_what_is_no_text_is_refused(features: Any, api: Api) -> None:
    assert api.predict({"features": features}).status_code == 422
