"""Requests of JSON in a known envelope: what is read is what the general way reads, and all else is left to it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelyard_runtime.dataplane.registry import ServedModel
from modelyard_runtime.errors import BadRequest
from modelyard_runtime.formats.base import RowsModel
from modelyard_runtime.protocols.numbers import FloatParser
from modelyard_runtime.protocols.v2.bind import bind_inputs
from modelyard_runtime.protocols.v2.envelope import Enclosed
from modelyard_runtime.protocols.v2.envelope_json import JsonEnvelopes
from modelyard_runtime.protocols.v2.request import InferRequest, parse_infer
from unit.runtime.support import Api, FakeModel

TENSOR = {"name": "features", "shape": [1, 2], "datatype": "FP64", "data": [1, 2.5]}
TWO_ROWS: dict[str, Any] = {**TENSOR, "shape": [2, 2], "data": [[1, 2.5], [3, 4]]}


def body(other: dict[str, Any] | None = None, **changes: Any) -> bytes:
    return orjson.dumps({**(other or {}), "inputs": [{**TENSOR, **changes}]})


def served(model: Any = None, name: str = "m") -> ServedModel:
    return ServedModel(name, "1", "linear", "sha256:0", "file:///m", model or FakeModel())


def general(text: bytes, of: ServedModel) -> tuple[InferRequest, list[list[float]]] | None:
    try:
        request = parse_infer(text, None, of.model)
        tensors, _ = bind_inputs(of.model, request.inputs)
    except BadRequest:
        return None
    return request, tensors["features"].tolist()


def after(first: bytes, then: bytes, model: Any = None) -> Enclosed | None:
    """Return what is read of `then`, once `first` was read the general way."""
    envelopes, of = JsonEnvelopes(FloatParser()), served(model)
    assert envelopes.read(first, of) is None
    read = general(first, of)
    if read is not None:
        envelopes.learn(first, of, read[0])
    found = envelopes.read(then, of)
    if found is not None:
        expected = general(then, of)
        assert expected is not None
        assert (expected[0].id, list(expected[0].outputs), dict(expected[0].parameters)) == (found.id, [], {})
        assert found.rows.tolist() == expected[1]
    envelopes.read(first, of)
    again = envelopes.read(then, of)  # whatever came right before it
    assert (again and (again.id, again.rows.tolist())) == (found and (found.id, found.rows.tolist()))
    return found


TEXTS = st.sampled_from(["a", "b", '"', "\\u0061", "id", "data", '"id":"a"', '"data":[1]', "[", "é"])
IDS = st.builds('"id":"{}"'.format, TEXTS.filter(lambda text: '"' not in text)) | st.sampled_from(
    ['"id": ""', '"id":null', '"id":7', '"name":"id"', '"x":{"id":"a"}', '"data":[1,2]', '"x":"\\"data\\":[1"']
)
NUMBERS = st.sampled_from(
    ["1", "2.5", "-0", "1e400", "1e39", "18446744073709551616", "true", "null", '"1"', "[]", "0x"]
)
ROWS = st.lists(st.lists(NUMBERS, min_size=1, max_size=3).map(",".join), min_size=1, max_size=3)
DATA = ROWS.map(", ".join).map("[{}]".format) | ROWS.map("],[".join).map("[[{}]]".format)
FIELDS = st.sampled_from(
    [
        *('"name":"features"', '"name":"input-0"', '"shape":[1,2]', '"shape":[2,2]', '"shape":[2,1]'),
        *('"datatype":"FP64"', '"datatype":"FP32"', '"datatype":"INT64"', '"parameters":{}'),
    ]
) | DATA.map('"data":{}'.format)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two requests that are alike but for their data and ids, plain ones and very odd ones."""
    plain = ['"name":"features"', '"shape":[2,2]', '"datatype":"FP64"']
    fields = draw(st.permutations([*plain, *draw(st.lists(FIELDS, max_size=2)), "DATA"]))
    others = draw(st.lists(IDS, max_size=2))
    parts = draw(st.permutations([*others, "ID", '"inputs":[{' + ",".join(fields) + "}]"]))
    frame = "{" + ",".join(parts) + "}"

    def filled() -> bytes:
        data, request_id = draw(DATA | st.just("[1,2,3,4]") | st.just("[[1,2],[3,4]]")), draw(IDS | st.just('"id":"a"'))
        return frame.replace("DATA", f'"data":{data}').replace("ID", request_id).encode()

    return filled(), filled()


@given(pair=pairs())
def test_what_is_read_is_what_the_general_way_reads(pair: tuple[bytes, bytes]) -> None:
    after(*pair)


@pytest.mark.parametrize(
    ("first", "then", "request_id", "rows"),
    [
        (body(), body(data=[3, 4]), None, [[3, 4]]),
        (body(data=[[1, 2.5]]), body(data=[[-3e2, 4]]), None, [[-300, 4]]),
        (body(name="input-0"), body(name="input-0", data=[3, 4]), None, [[3, 4]]),
        (body({"id": "7"}), body({"id": "8"}), "8", [[1, 2.5]]),
        (body({"id": ""}), body({"id": "8"}), "8", [[1, 2.5]]),
        (body({"id": None}), body({"id": None}), None, [[1, 2.5]]),
        (body({"id": "é"}), body({"id": "é"}), "é", [[1, 2.5]]),
        (body(datatype="FP32"), body(datatype="FP32", data=[0.1, 4]), None, [[float(np.float32(0.1)), 4]]),
        (body(parameters={"content_type": "np"}), body(parameters={"content_type": "np"}), None, [[1, 2.5]]),
        (body(**TWO_ROWS), body(**{**TWO_ROWS, "data": [[5, 6], [7, 8]]}), None, [[5, 6], [7, 8]]),
        (b'{"inputs": [%b], "id": "x"}' % orjson.dumps(TENSOR),) * 2 + ("x", [[1, 2.5]]),
        (body({"id": "2", "x": {"id": "1"}}),) * 2 + ("2", [[1, 2.5]]),
    ],
)
def test_only_the_numbers_are_read(first: bytes, then: bytes, request_id: str | None, rows: list[list[float]]) -> None:
    found = after(first, then)

    assert found is not None
    assert (found.rows.tolist(), found.id) == (rows, request_id)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (body(), body(data=[[1, 2.5]])),
        (body(), body(data=[1])),
        (body(), body(data=[1, 2, 3])),
        (body(), body(data=[1, True])),
        (body(), body(data=[1, "2"])),
        (body(), body()[:-1]),
        (body(), body() + b" "),
        (body(), body(name="input-0")),
        (body(datatype="FP32"), body(datatype="FP32", data=[1e39, 1])),
        (body({"id": "7"}), body({"id": 'a"b'})),
        (body({"id": "7"}), body({"id": "é"})),
        (body({"x": {"id": "1"}, "id": "2"}), body({"x": {"id": "3"}, "id": "2"})),
        *((text, text) for text in (b"", b"{", b"[]", b'{"inputs": {}}', body(datatype="INT64"), body({"id": 7}))),
        (body({"outputs": [{"name": "prediction"}]}),) * 2,
        (body({"parameters": {"use_cache": True}}),) * 2,
        (orjson.dumps({"inputs": [TENSOR, {**TENSOR, "name": "b"}]}),) * 2,
        (body(shape=[10_000, 2], data=[1] * 20_000),) * 2,
        (b'{"data": [1, 2.5], "inputs": [%b]}' % orjson.dumps(TENSOR),) * 2,
        (b'{"inputs": [{"data": [1, 2], %b]}' % orjson.dumps(TENSOR)[1:],) * 2,
        (b'{"inputs": [{"data": [[], true], %b]}' % orjson.dumps(TENSOR)[1:],) * 2,
        (b'{"id": "a", "id": "b", "inputs": [%b]}' % orjson.dumps(TENSOR),) * 2,
    ],
)
def test_all_else_is_left_to_the_general_way(first: bytes, then: bytes) -> None:
    assert after(first, then) is None


def test_a_number_may_be_missing_between_the_same_brackets() -> None:
    model = FakeModel(features=1)

    assert after(body(shape=[1, 1], data=[1]), body(shape=[1, 1], data=[]), model) is None


class Tensors(FakeModel):
    def infer(self, tensors: Any, wanted: Any = ()) -> dict[str, Any]:
        return super().infer(tensors, wanted)


class Words(FakeModel):
    text_features = frozenset({1})


@pytest.mark.parametrize("model", [Tensors(), Words()])
def test_models_with_more_than_rows_of_numbers_are_left_to_the_general_way(model: RowsModel) -> None:
    assert after(body(), body(), model) is None


def test_another_version_learns_anew_and_the_old_one_is_let_go() -> None:
    envelopes, old, new = JsonEnvelopes(FloatParser()), served(), served(FakeModel(features=1))
    envelopes.learn(body(), old, parse_infer(body(), None, old.model))

    assert envelopes.read(body(), old) is not None
    assert envelopes.read(body(), new) is None
    gone = weakref.ref(old)
    del old
    gc.collect()
    assert gone() is None


def test_models_of_one_request_are_told_apart() -> None:
    envelopes, one, other = JsonEnvelopes(FloatParser()), served(), served(name="n")
    for of in (one, other):
        envelopes.read(body(), one)  # a hit or a miss, so that the next is looked at
        envelopes.learn(body(), of, parse_infer(body(), None, of.model))

    found = [envelopes.read(body(), of) for of in (one, other)]

    assert [enclosed and enclosed.served for enclosed in found] == [one, other]


def test_ever_fewer_requests_are_looked_at_where_none_comes_again() -> None:
    envelopes, of = JsonEnvelopes(FloatParser()), served()
    texts = [body({f"x{number}": 1}) for number in range(1000)]

    learned = [envelopes.learn(text, of, parse_infer(text, None, of.model)) for text in texts]

    assert sum(learned) == 10


@pytest.mark.parametrize(
    "answer",
    [
        lambda rows: rows.sum(axis=1),
        lambda rows: rows.sum(axis=1) > 4,
        lambda rows: rows.sum(axis=1).astype(np.int64),
        lambda rows: rows.sum(axis=1).astype(np.float32),
        lambda rows: rows * 2,
        lambda rows: np.array(["a", 'outputs":é'], dtype=object)[(rows[:, 0] > 2).astype(int)],
        lambda rows: np.array(["a", "bcd"])[(rows[:, 0] > 2).astype(int)],
        lambda rows: rows.sum(axis=1) if rows[0, 0] > 2 else rows.sum(axis=1).astype(np.int64),
        lambda rows: rows * 2 if rows[0, 0] > 2 else rows.sum(axis=1),
    ],
)
@pytest.mark.parametrize("about", [{}, {"id": "7"}, {"id": "é"}])
def test_answers_are_the_same(serve: Callable[..., Api], answer: Any, about: dict[str, Any]) -> None:
    """Whatever the dtype and shape of predictions, and whether they change with the numbers."""
    api = serve({"m": FakeModel(answer=answer)})
    rows = [[1, 2.5], [3, 4], [1, 1], [5, 6], [2.5, 2]]
    requests = [{**about, "inputs": [{**TWO_ROWS, "data": [row, other]}]} for row in rows for other in rows[:2]]

    known = [api.send("POST", "/v2/models/m/infer", json=request) for request in requests]
    expected = [api.send("POST", "/v2/models/m/infer", json={**request, "parameters": {}}) for request in requests]

    assert {response.status_code for response in known} == {200}
    assert [response.json() for response in known] == [response.json() for response in expected]
    assert [response.headers["content-type"] for response in known] == ["application/json"] * len(requests)


def test_refused_values_are_refused_as_the_general_way_does(serve: Callable[..., Api]) -> None:
    api = serve({"m": FakeModel(answer=lambda rows: np.where(rows[:, 0] > 8, np.inf, 1.0))})
    requests = [{"inputs": [{**TENSOR, "data": data}]} for data in ([1, 0], [0.5, 0], [9, 9], [1, 0])]

    answers = [api.send("POST", "/v2/models/m/infer", json=request) for request in requests]

    assert [answer.status_code for answer in answers] == [200, 200, 400, 200]
    assert "finite" in answers[2].json()["error"]
