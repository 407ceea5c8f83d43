"""The parsers of the seed API under fuzz: an answer or the client's own error, never a 500."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from unit.runtime.support import NAMES, Api, FakeModel

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=15,
)
REQUEST = st.fixed_dictionaries({}, optional=dict.fromkeys(("model_name", "features", "instances", "use_cache"), JSON))


@pytest.fixture(scope="module")
def target() -> Iterator[Api]:
    api = Api({"m": FakeModel(features=4, feature_names=NAMES)}, max_body_bytes=2000)
    yield api
    api.app.executor.close()


@settings(max_examples=300, deadline=None)
@given(path=st.sampled_from(["/predict", "/predict/batch"]), body=REQUEST | JSON)
@example(path="/predict", body={"features": [2**63, -(2**63), 2**64 - 1, 10**30]})
@example(path="/predict", body={"features": {"age": 1, "income": 10**400}})
def test_any_json_gets_an_answer_or_its_own_error(target: Api, path: str, body: Any) -> None:
    response = target.predict(json.dumps(body).encode(), path)

    assert response.status_code in (200, 400, 404, 413, 422)
    assert ("error" in response.json()) == (response.status_code != 200)
    orjson.loads(response.content)


@settings(max_examples=300, deadline=None)
@given(path=st.sampled_from(["/predict", "/predict/batch"]), body=st.binary(max_size=200))
def test_any_bytes_get_their_own_error(target: Api, path: str, body: bytes) -> None:
    response = target.predict(body, path)

    assert response.status_code in (400, 422)
    assert response.json()["error"]
