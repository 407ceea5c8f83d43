"""Requests of gRPC in a known envelope: what is read is what the general way reads, and all else is left to it."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelyard_runtime.dataplane.registry import Registry, ServedModel
from modelyard_runtime.errors import RequestError
from modelyard_runtime.protocols.grpc.envelope import MessageEnvelopes
from modelyard_runtime.protocols.grpc.infer import Inference
from modelyard_runtime.protocols.grpc.messages import Messages, read_message
from modelyard_runtime.protocols.grpc.tensors import read_request
from modelyard_runtime.protocols.v2.bind import bind_inputs
from modelyard_runtime.protocols.v2.envelope import Enclosed
from unit.runtime.fuzz.damage import damaged
from unit.runtime.support import Api, FakeModel

MESSAGES = Messages()
REQUEST, RESPONSE = MESSAGES.methods["ModelInfer"]
SERVED = ServedModel("m", "1", "linear", "sha256:0", "file:///m", FakeModel())
ROWS = [[1, 2.5], [3, 4]]


def message(
    rows: Any = ROWS, *, datatype: str = "FP64", raw: bool = True, name: str = "features", **fields: Any
) -> bytes:
    values = np.array(rows, dtype="f4" if datatype == "FP32" else "f8")
    request = REQUEST(**{"model_name": "m", **fields})
    tensor = request.inputs.add(name=name, datatype=datatype, shape=values.shape)
    if raw:
        request.raw_input_contents.append(values.tobytes())
    else:
        getattr(tensor.contents, f"{datatype.lower()}_contents").extend(values.reshape(-1).tolist())
    return bytes(request.SerializeToString())


def general(data: bytes) -> tuple[ServedModel, str | None, bytes] | None:
    try:
        found = read_message(REQUEST, data)
        if found.model_name != "m" or found.model_version not in ("", "1"):
            return None
        request = read_request(found)
        if request.outputs or request.parameters:
            return None
        tensors, _ = bind_inputs(SERVED.model, request.inputs)
    except RequestError:
        return None
    return SERVED, request.id, tensors["features"].tobytes()


def after(first: bytes, then: bytes) -> Enclosed | None:
    """Return what is read of `then`, once `first` was read the general way."""
    registry = Registry()
    registry.activate(SERVED)
    envelopes = MessageEnvelopes(registry, REQUEST)
    assert envelopes.read(first) is None
    if general(first) is not None:
        found = read_message(REQUEST, first)
        envelopes.learn(first, SERVED, found, read_request(found))
    enclosed = envelopes.read(then)
    if enclosed is not None:
        assert (enclosed.served, enclosed.id, enclosed.rows.tobytes()) == general(then)
    return enclosed


def with_id(data: bytes, request_id: bytes, at: int) -> bytes:
    """Return a message with one more field for the id, wherever it may fall."""
    return data[:at] + b"\x1a" + bytes((len(request_id),)) + request_id + data[at:]


@given(data=st.data())
def test_what_is_read_is_what_the_general_way_reads(data: st.DataObject) -> None:
    plain = message(id=data.draw(st.sampled_from(["", "a", "bc"])), raw=data.draw(st.booleans()))
    places = st.sampled_from([0, 3, 5, 6, len(plain)]) | st.integers(0, len(plain))
    ids = st.sampled_from([b"", b"a", b"bc", b"\xff", b"x" * 127])
    first = data.draw(st.just(plain) | st.builds(with_id, st.just(plain), ids, places))
    others = st.just(message([[5, 6], [7, 8]])) | st.builds(with_id, st.just(first), ids, places) | damaged(first)

    after(first, data.draw(others))


@pytest.mark.parametrize(
    ("first", "then", "request_id", "rows"),
    [
        (message(), message([[5, 6], [7, 8]]), None, [[5, 6], [7, 8]]),
        (message(), message(id="7"), "7", ROWS),
        (message(id="7"), message(id="another"), "another", ROWS),
        (message(id="7"), message(id="é"), "é", ROWS),
        (message(id="7"), message(), None, ROWS),
        (message(model_version="1", id="7"), message(model_version="1", id="8"), "8", ROWS),
        (
            message(datatype="FP32"),
            message([[0.1, 2], [3, 4]], datatype="FP32"),
            None,
            [[float(np.float32(0.1)), 2], ROWS[1]],
        ),
        (message(raw=False), message([[5, 6], [7, 8]], raw=False), None, [[5, 6], [7, 8]]),
        (message(datatype="FP32", raw=False), message(datatype="FP32", raw=False), None, ROWS),
        (message(name="input-0"), message(name="input-0"), None, ROWS),
    ],
)
def test_only_the_numbers_are_read(first: bytes, then: bytes, request_id: str | None, rows: list[list[float]]) -> None:
    found = after(first, then)

    assert found is not None
    assert (found.rows.tolist(), found.id) == (rows, request_id)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (message(), message(ROWS[:1])),
        (message(), message([[1], [2.5], [3], [4]])),
        (message(), message(raw=False)),
        (message(), message(model_name="n")),
        (message(), message(model_version="2")),
        (message(), message(datatype="FP32")),
        (message(), message(name="input_0")),
        (message(), message() + b"\x1a\x01b"),
        (message(), with_id(message(id="7"), b"8", 3)),
        (message(), b""),
        (b"", b""),
        (message(id="7"), with_id(message(), b"\xff", 3)),
        (message(id="x" * 200), message(id="x" * 200)),
        (message(), message(id="x" * 200)),
        *((text, text) for text in (message(datatype="INT64"), message() + b"\x1a\x01b", message() + b"\x1a\x00")),
    ],
)
def test_all_else_is_left_to_the_general_way(first: bytes, then: bytes) -> None:
    assert after(first, then) is None


def test_requests_for_outputs_or_with_parameters_are_left_to_the_general_way() -> None:
    asked = REQUEST.FromString(message())
    asked.outputs.add(name="prediction")
    timed = REQUEST.FromString(message())
    timed.parameters["timeout"].int64_param = 5_000_000

    assert [after(data, data) for data in (asked.SerializeToString(), timed.SerializeToString())] == [None, None]


def test_a_model_that_is_served_no_more_is_not_asked() -> None:
    registry = Registry()
    registry.activate(SERVED)
    envelopes = MessageEnvelopes(registry, REQUEST)
    found = read_message(REQUEST, message())
    envelopes.learn(message(), SERVED, found, read_request(found))

    assert envelopes.read(message()) is not None
    registry.activate(ServedModel("m", "2", "linear", "sha256:1", "file:///m", FakeModel()))
    assert envelopes.read(message()) is None


class Context:
    def time_remaining(self) -> float | None:
        return None

    def invocation_metadata(self) -> tuple[()]:
        return ()


@pytest.mark.parametrize(
    "answer",
    [
        lambda rows: rows.sum(axis=1),
        lambda rows: rows.sum(axis=1) > 4,
        lambda rows: rows.sum(axis=1).astype(np.int64),
        lambda rows: rows * 2,
        lambda rows: np.array(["a", "bcd"], dtype=object)[(rows[:, 0] > 2).astype(int)],
        lambda rows: np.array(["a", "bcd"])[(rows[:, 0] > 2).astype(int)],
        lambda rows: rows.sum(axis=1) if rows[0, 0] > 2 else rows.sum(axis=1).astype(np.int64),
    ],
)
@pytest.mark.parametrize("raw", [True, False])
async def test_answers_are_the_same(answer: Any, raw: bool) -> None:
    """Whatever the dtype, the shape and the length of predictions, and whether they change with the numbers."""
    api = Api({"m": FakeModel(answer=answer)})
    inference = Inference(api.app.parts, REQUEST, RESPONSE)
    rows = [[1, 2.5], [3, 4], [1, 1], [5, 6], [2.5, 2]]
    pairs = [([row, other], request_id) for row in rows for other in rows[:2] for request_id in ("", "7")]

    known = [await inference.answer(message(pair, raw=raw, id=name), Context()) for pair, name in pairs]
    expected = []
    for pair, name in pairs:
        first = Inference(api.app.parts, REQUEST, RESPONSE)
        expected.append(await first.answer(message(pair, raw=raw, id=name), Context()))
    api.app.close()

    assert known == expected


async def test_calls_are_counted() -> None:
    """The first, read the general way, and the next, which are not."""
    api = Api({"m": FakeModel()})
    inference = Inference(api.app.parts, REQUEST, RESPONSE)

    await asyncio.gather(*(inference.answer(message(), Context()) for _ in range(3)))
    with pytest.raises(RequestError):
        await inference.answer(b"\xff", Context())

    text = (await api.request("GET", "/metrics")).text
    statistics = api.app.parts.statistics.all()
    api.app.close()

    assert [(found.success.count, found.inference_count) for found in statistics] == [(3, 6)]
    assert ('model="m",protocol="grpc",version="1"} 3.0' in text, api.app.in_flight) == (True, 0)
