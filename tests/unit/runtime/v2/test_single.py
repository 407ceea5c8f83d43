"""One row, read in fewer steps: what is read is what the general way reads, and all else is left to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelyard_runtime.protocols.v2.bind import bind_inputs
from modelyard_runtime.protocols.v2.request import parse_infer
from modelyard_runtime.protocols.v2.single import read_single
from unit.runtime.support import Api, FakeModel

TENSOR = {"name": "features", "shape": [1, 2], "datatype": "FP64", "data": [1, 2.5]}
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
ODD = (
    st.none() | st.booleans() | st.integers(0, 3) | st.text("1x", max_size=2) | st.lists(st.integers(0, 3), max_size=3)
)


def body(other: dict[str, Any] | None = None, **changes: Any) -> bytes:
    return orjson.dumps({"inputs": [{**TENSOR, **changes}], **(other or {})})


@given(
    shape=st.just([1, 2]) | st.lists(st.sampled_from([1, 2, 1.0, True, "1", None]), max_size=3) | ODD,
    data=st.lists(NUMBERS, min_size=2, max_size=2) | st.lists(st.lists(NUMBERS, max_size=3), max_size=2) | ODD,
    datatype=st.sampled_from(["FP64", "FP32", "INT64", "BOOL", "x", 1]),
    name=st.sampled_from(["features", "input-0", "x", 1]),
    other=st.dictionaries(st.sampled_from(["id", "outputs", "parameters"]), ODD, max_size=2),
)
def test_what_is_read_is_what_the_general_way_reads(
    shape: Any, data: Any, datatype: Any, name: Any, other: dict[str, Any]
) -> None:
    model = FakeModel()
    text = body(other, shape=shape, data=data, datatype=datatype, name=name)

    found = read_single(text, model)

    if found is not None:
        request = parse_infer(text, None, model)
        tensors, rows = bind_inputs(model, request.inputs)
        assert (rows, request.outputs, request.id, dict(request.parameters)) == (1, [], found.id, {})
        assert tensors["features"].tobytes() == found.row.tobytes()
        assert tensors["features"].shape == found.row.shape


@pytest.mark.parametrize(
    ("text", "request_id"),
    [
        (body(), None),
        (body(data=[[1, 2.5]]), None),
        (body(name="input-0"), None),
        (body({"id": "7"}), "7"),
        (body({"id": None}), None),
    ],
)
def test_a_row_of_numbers_is_read(text: bytes, request_id: str | None) -> None:
    found = read_single(text, FakeModel())

    assert found is not None
    assert (found.row.tolist(), found.id) == ([[1.0, 2.5]], request_id)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'{"inputs": {}}',
        body({"outputs": [{"name": "prediction"}]}),
        body({"parameters": {"use_cache": True}}),
        body({"id": 7}),
        body(parameters={"binary_data_size": 16}),
        body(datatype="FP32"),
        body(datatype="INT64"),
        body(shape=[2, 1]),
        body(shape=[1.0, 2]),
        body(shape=[True, 2]),
        body(data=[1, "2"]),
        body(data=[1, None]),
        body(data=[[1], [2]]),
        body(name="other"),
        body(data=[0.1] * 2000),
        orjson.dumps({"inputs": [TENSOR, TENSOR]}),
    ],
)
def test_all_else_is_left_to_the_general_way(text: bytes) -> None:
    assert read_single(text, FakeModel()) is None


def test_a_column_of_that_name_is_no_name_of_the_input() -> None:
    model = FakeModel(feature_names=("input-0", "b"))

    assert read_single(body(name="input-0"), model) is None
    assert read_single(body(name="input_0"), model) is not None


def test_the_answer_is_the_same(serve: Callable[..., Api]) -> None:
    api = serve({"m": FakeModel(answer=lambda rows: rows.sum(axis=1) > 1)})
    single = {"inputs": [TENSOR], "id": "7"}
    general = {**single, "parameters": {}}

    answers = [api.send("POST", "/v2/models/m/infer", json=request) for request in (single, general)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
