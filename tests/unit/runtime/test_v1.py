"""The V1 protocol: predictions as KServe's and TensorFlow Serving's clients ask for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.runtime.support import NAMES, Api, FakeModel

PREDICT = "/v1/models/m:predict"


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    api = Api({"m": FakeModel(features=4, feature_names=NAMES)})
    yield api
    api.app.executor.close()


@pytest.mark.parametrize(
    "row",
    [[1, 2, 3, 4], {"age": 1, "income": 2, "tenure": 3, "calls": 4}, {"calls": 4, "age": 1, "income": 2, "tenure": 3}],
)
@pytest.mark.parametrize("path", [PREDICT, "/v1/models/m/versions/1:predict"])
def test_instances_are_rows_or_named_values(api: Api, row: Any, path: str) -> None:
    response = api.predict({"signature_name": "serving_default", "instances": [row, row]}, path)

    assert response.status_code == 200
    assert response.json() == {"predictions": [10.0, 10.0]}


def test_a_very_large_body_is_answered_too(api: Api) -> None:
    rows = 40_000

    response = api.predict({"instances": [[1, 2, 3, 4]] * rows}, PREDICT)

    assert response.json() == {"predictions": [10.0] * rows}


def test_labels(serve: Callable[..., Api]) -> None:
    api = serve({"m": FakeModel(lambda rows: np.array(["a", "b"]))})

    assert api.predict({"instances": [[1, 2], [3, 4]]}, PREDICT).json() == {"predictions": ["a", "b"]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"{}",
        b'{"inputs": [[1, 2, 3, 4]]}',
        b'{"instances": []}',
        b'{"instances": [[1, 2]]}',
        b'{"instances": [[1, 2, 3, "x"]]}',
        b'{"instances": [[1, 2, 3, NaN]]}',
        b'{"instances": [{"age": 1}]}',
    ],
)
def test_what_is_wrong_is_a_400_with_an_error(api: Api, body: bytes) -> None:
    response = api.predict(body, PREDICT)

    assert response.status_code == 400
    assert list(response.json()) == ["error"]


def test_a_charset_does_not_matter(api: Api) -> None:
    response = api.send(
        "POST",
        PREDICT,
        content=json.dumps({"instances": [[1, 2, 3, 4]]}).encode(),
        headers={"content-type": "application/json; charset=utf-8"},
    )

    assert response.status_code == 200


def test_models_and_their_state(api: Api, serve: Callable[..., Api]) -> None:
    loading = serve({})
    loading.app.registry.expect("m")

    assert api.send("GET", "/v1/models").json() == {"models": ["m"]}
    assert api.send("GET", "/v1/models/m").json() == {
        "name": "m",
        "ready": True,
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ],
    }
    assert loading.send("GET", "/v1/models/m").json()["ready"] is False
    assert loading.predict({"instances": [[1]]}, PREDICT).status_code == 503
    assert api.send("GET", "/v1/models/x").status_code == 404
    assert api.predict({"instances": [[1]]}, "/v1/models/x:predict").status_code == 404
    assert api.predict({"instances": [[1]]}, "/v1/models/m/versions/2:predict").status_code == 404
    assert api.send("GET", PREDICT).status_code == 405


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=15,
)


@settings(max_examples=200, deadline=None)
@given(body=st.fixed_dictionaries({"instances": JSON}) | JSON)
def test_any_json_gets_an_answer_or_its_own_error(api: Api, body: Any) -> None:
    assert api.predict(json.dumps(body).encode(), PREDICT).status_code in (200, 400)
