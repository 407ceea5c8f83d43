"""Requests with a binary tensor in a known envelope: read as the general way reads them, all else left to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from modelyard_runtime.dataplane.registry import ServedModel
from modelyard_runtime.errors import BadRequest
from modelyard_runtime.protocols.v2.bind import bind_inputs
from modelyard_runtime.protocols.v2.envelope import Enclosed
from modelyard_runtime.protocols.v2.envelope_binary import BinaryEnvelopes
from modelyard_runtime.protocols.v2.request import parse_infer
from unit.runtime.support import Api, FakeModel

SERVED = ServedModel("m", "1", "linear", "sha256:0", "file:///m", FakeModel())
ROWS = [[1, 2.5], [3, 4]]
WANTED = {"parameters": {"binary_data_output": True}}


def request(rows: Any = ROWS, dtype: str = "<f8", datatype: str = "FP64", **other: Any) -> tuple[bytes, int]:
    """Return a body, and the bytes of its JSON."""
    values = np.array(rows, dtype)
    parameters = {"binary_data_size": values.nbytes}
    tensor = {"name": "features", "shape": values.shape, "datatype": datatype, "parameters": parameters}
    head = orjson.dumps({**WANTED, **other, "inputs": [tensor]})
    return head + values.tobytes(), len(head)


def after(first: tuple[bytes, int], then: tuple[bytes, int]) -> Enclosed | None:
    """Return what is read of `then`, once `first` was read the general way."""
    envelopes = BinaryEnvelopes()
    assert envelopes.read(*first, SERVED) is None
    with contextlib.suppress(BadRequest):
        envelopes.learn(*first, SERVED, parse_infer(*first, SERVED.model))
    found = envelopes.read(*then, SERVED)
    if found is not None:
        expected = parse_infer(*then, SERVED.model)
        assert bind_inputs(SERVED.model, expected.inputs)[0]["features"].tobytes() == found.rows.tobytes()
        assert (expected.id, expected.binary) == (found.id, found.envelope.binary)
    return found


@pytest.mark.parametrize(
    ("first", "then", "rows"),
    [
        (request(), request([[5, 6], [7, 8]]), [[5, 6], [7, 8]]),
        (request(id="7"), request(id="7"), ROWS),
        (
            request(ROWS, "<f4", "FP32"),
            request([[0.1, 2], [3, 4]], "<f4", "FP32"),
            [[float(np.float32(0.1)), 2], [3, 4]],
        ),
        (request(), request([[np.nan, 6], [7, np.inf]]), [[np.nan, 6], [7, np.inf]]),
    ],
)
def test_only_the_numbers_are_read(first: tuple[bytes, int], then: tuple[bytes, int], rows: list[list[float]]) -> None:
    found = after(first, then)

    assert found is not None
    np.testing.assert_array_equal(found.rows, rows)


BODY, LENGTH = request()


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ((BODY, LENGTH), (BODY[:-8], LENGTH)),
        ((BODY, LENGTH), (BODY + bytes(8), LENGTH)),
        ((BODY, LENGTH), (BODY[:-1], LENGTH)),
        ((BODY, LENGTH), (BODY, LENGTH + 8)),
        ((BODY, LENGTH), (BODY, 10**19)),
        ((BODY, LENGTH), (BODY[:LENGTH], LENGTH)),
        ((BODY, LENGTH), request(id="7")),
        ((bytes(16), 0), (bytes(16), 0)),
        (request(ROWS, "<i8", "INT64"), request(ROWS, "<i8", "INT64")),
        (request(ROWS, "<f2", "FP16"), request(ROWS, "<f2", "FP16")),
        (request(ROWS, "<u2", "BF16"), request(ROWS, "<u2", "BF16")),
        (request(parameters={}), request(parameters={})),
        (request(parameters={"binary_data_output": True, "use_cache": True}),) * 2,
        (request(outputs=[{"name": "prediction"}]),) * 2,
        (request(name="x" * 5000),) * 2,
    ],
)
def test_all_else_is_left_to_the_general_way(first: tuple[bytes, int], then: tuple[bytes, int]) -> None:
    assert after(first, then) is None


@pytest.mark.parametrize(
    "answer",
    [
        lambda rows: rows.sum(axis=1),
        lambda rows: rows.sum(axis=1).astype(np.int64),
        lambda rows: rows * 2,
        lambda rows: np.array(["a", "bcd"], dtype=object)[(rows[:, 0] > 2).astype(int)],
        lambda rows: rows.sum(axis=1) if rows[0, 0] > 2 else rows.sum(axis=1).astype(np.int64),
    ],
)
@pytest.mark.parametrize("about", [{}, {"id": "7"}])
def test_answers_are_the_same(serve: Callable[..., Api], answer: Any, about: dict[str, Any]) -> None:
    """Whatever the dtype and shape of predictions, and whether they change with the numbers."""
    api = serve({"m": FakeModel(answer=answer)})
    rows = [[1, 2.5], [3, 4], [1, 1], [5, 6], [2.5, 2]]
    pairs = [[row, other] for row in rows for other in rows[:2]]

    def ask(pair: Any, **other: Any) -> tuple[int, bytes, str, str]:
        body, length = request(pair, **about, **other)
        headers = {"inference-header-content-length": str(length)}
        response = api.send("POST", "/v2/models/m/infer", content=body, headers=headers)
        told = response.headers
        return response.status_code, response.content, told["content-type"], told["inference-header-content-length"]

    known = [ask(pair) for pair in pairs]
    # A field that nobody knows, another each time, has the general way read it.
    expected = [ask(pair, **{f"x{number}": 1}) for number, pair in enumerate(pairs)]

    assert known == expected
    assert {status for status, *_ in known} == {200}
