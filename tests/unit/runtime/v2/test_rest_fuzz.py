"""The parsers of OIP v2 over HTTP under fuzz: an answer or the client's own error, never a 500."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from modelyard_runtime.formats import TensorSpec
from unit.runtime.support import NAMES, Api, FakeModel

INFER = "/v2/models/m/infer"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=15,
)
TYPES = ["BOOL", "UINT8", "UINT64", "INT8", "INT64", "FP16", "FP32", "FP64", "BF16", "BYTES"]
TENSOR = st.fixed_dictionaries(
    {"name": st.sampled_from(["features", "input-0", *NAMES]), "datatype": st.sampled_from(TYPES)},
    optional={
        "shape": st.lists(st.integers(-1, 5), max_size=3) | JSON,
        "data": st.lists(st.integers(-300, 300) | st.floats() | st.text(max_size=3), max_size=9) | JSON,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 40) | JSON}) | JSON,
    },
)
REQUEST = st.fixed_dictionaries(
    {"inputs": st.lists(TENSOR, max_size=4) | JSON},
    optional={"outputs": st.lists(st.fixed_dictionaries({"name": JSON})) | JSON, "parameters": JSON, "id": JSON},
)


@pytest.fixture(scope="module")
def target() -> Iterator[Api]:
    api = Api({"m": FakeModel(features=4, feature_names=NAMES, inputs=(TensorSpec("features", "FP64", (-1, 4)),))})
    yield api
    api.app.executor.close()


@settings(max_examples=400, deadline=None)
@given(head=REQUEST | JSON, raw=st.binary(max_size=64), length=st.none() | st.integers(-1, 300))
@example(head={"inputs": [{"name": "features", "shape": [0, 4], "datatype": "FP64", "data": []}]}, raw=b"", length=None)
@example(
    head={"inputs": [{"name": "age", "shape": [], "datatype": "FP64", "data": [1]}]},
    raw=b"",
    length=None,
)
def test_any_request_gets_an_answer_or_its_own_error(target: Api, head: Any, raw: bytes, length: int | None) -> None:
    text = json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": str(len(text) if length is None else length)}

    response = target.send("POST", INFER, content=text + raw, headers=headers)

    assert response.status_code in (200, 400, 501), response.text
    if response.status_code != 200:
        assert response.json()["error"]


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=64), datatype=st.sampled_from(TYPES), shape=st.lists(st.integers(0, 5), max_size=3))
@example(raw=struct.pack("<I", 2**32 - 1), datatype="BYTES", shape=[1, 1])
def test_any_raw_tensor_gets_an_answer_or_its_own_error(
    target: Api, raw: bytes, datatype: str, shape: list[int]
) -> None:
    tensor = {
        "name": "features",
        "datatype": datatype,
        "shape": shape,
        "parameters": {"binary_data_size": len(raw)},
    }

    text = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}

    response = target.send("POST", INFER, content=text + raw, headers=headers)

    assert response.status_code in (200, 400)
