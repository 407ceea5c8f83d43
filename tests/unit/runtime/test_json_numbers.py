"""Numbers read into buffers: the same as the plain parsers read, or not read at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelyard_runtime.errors import RequestError
from modelyard_runtime.protocols.json_numbers import NumberReader
from modelyard_runtime.protocols.json_reader import JsonReader
from modelyard_runtime.protocols.rows import rows_of_instances
from modelyard_runtime.protocols.v2.request import parse_infer
from unit.runtime.support import FakeModel

PARSER = NumberReader()
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
ANY = NUMBERS | st.none() | st.booleans() | st.text("[]{}\\,:a", max_size=4)
JSON = st.recursive(
    ANY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "data", "instances"]), inner),
    max_leaves=12,
)


def plain_rows(body: bytes) -> Any:
    return rows_of_instances(FakeModel(features=None), orjson.loads(body)["instances"])


@given(
    st.integers(1, 5).flatmap(lambda width: st.lists(st.lists(NUMBERS, min_size=width, max_size=width), min_size=1)),
    st.dictionaries(st.sampled_from(["model_name", "x"]), st.text("[]{},:a", max_size=9) | st.integers(-9, 9)),
)
def test_rows_of_numbers_are_read_as_the_plain_parser_reads_them(rows: Any, others: dict[str, Any]) -> None:
    body = orjson.dumps({**others, "instances": rows})

    found = PARSER.object_with_rows(body, "instances")

    assert found is not None
    assert found["instances"].tobytes() == plain_rows(body).tobytes()
    assert {name: value for name, value in found.items() if name != "instances"} == others


@given(st.lists(JSON, max_size=4) | JSON, JSON)
def test_whatever_else_is_there_is_read_alike_or_left(instances: Any, other: Any) -> None:
    body = orjson.dumps({"instances": instances, "a": other})

    found = PARSER.object_with_rows(body, "instances")

    if found is not None:
        assert found["instances"].tobytes() == plain_rows(body).tobytes()
        assert found["a"] == other


@pytest.mark.parametrize(
    "text",
    [
        b'{"instances": [[1, 2], [3]]}',
        b'{"instances": [[[1], 2], [3, 4]]}',
        b'{"instances": [[[1], [2]], [[3], [4]]]}',
        b'{"instances": [[[1], 2], [3, 4]], "a": "\\u005b"}',
        b'{"instances": [[1, true]]}',
        b'{"instances": [[1, "2"]]}',
        b'{"instances": [[1, null]]}',
        b'{"instances": [1, 2]}',
        b'{"instances": [[]]}',
        b'{"instances": [[1, 2]], "instances": [[3, 4]]}',
        b'{"instances": [[1, 2]], "\\u0069nstances": [[3, 4]]}',
        b'{"instances": [[1e400, 2]]}',
        b'{"instances": [[123456789012345678901234567890]]}',
        b'{"instances": [[1, 2],]}',
        b'{"instances": [[01, 2]]}',
        b'{"instances": [[NaN, 2]]}',
        b'{"instances": [[1, 2]]',
        b"[[1, 2]]",
        b'{"rows": [[1, 2]]}',
        b'\xef\xbb\xbf{"instances": [[1, 2]]}',
        b'{"instances": [[1, 2]], "a": "\xff"}',
    ],
)
def test_what_is_not_plainly_rows_is_left_to_the_plain_parser(text: bytes) -> None:
    assert PARSER.object_with_rows(text, "instances") is None


def test_what_would_take_too_much_memory_is_left() -> None:
    body = orjson.dumps({"instances": [[1.5] * 8] * 10_000})

    assert PARSER.object_with_rows(body, "instances") is None


def test_errors_are_those_of_the_plain_parser() -> None:
    request = PARSER.object_with_rows(orjson.dumps({"instances": [[1, 2, 3]]}), "instances")
    assert request is not None

    with pytest.raises(RequestError, match=r"instances\[0\] has 3 numbers, expected 2"):
        rows_of_instances(FakeModel(), request["instances"])


def outcome(body: bytes, *, shortcuts: bool) -> Any:
    try:
        request = parse_infer(body, None, FakeModel(), JsonReader(shortcuts=shortcuts))
    except RequestError as exc:
        return type(exc), exc.message
    tensors = {name: (array.dtype, array.shape, array.tobytes()) for name, array in request.inputs.items()}
    return tensors, request.outputs, request.id, request.parameters


@given(
    datatype=st.sampled_from(["FP32", "FP64", "INT64", "BOOL", "X"]),
    shape=st.lists(st.integers(0, 4), max_size=3) | JSON,
    data=st.lists(NUMBERS) | st.lists(st.lists(NUMBERS, min_size=2, max_size=2)) | JSON,
    other=JSON,
)
def test_tensors_are_read_as_the_plain_parser_reads_them(datatype: str, shape: Any, data: Any, other: Any) -> None:
    tensor = {"name": "x", "shape": shape, "datatype": datatype, "data": data}
    body = orjson.dumps({"inputs": [tensor], "id": "[", "parameters": other, "long": "x" * 512})

    assert outcome(body, shortcuts=True) == outcome(body, shortcuts=False)


def test_tensors_of_numbers_are_read_into_a_buffer() -> None:
    values = np.arange(200.0).reshape(100, 2)
    tensors = [
        {"name": name, "shape": [100, 2], "datatype": "FP64", "data": data}
        for name, data in (("nested", values.tolist()), ("flat", values.ravel().tolist()))
    ]

    found = PARSER.object_with_tensors(orjson.dumps({"inputs": tensors, "outputs": [{"name": "y"}]}))

    assert found is not None
    assert [tensor["data"].tolist() for tensor in found["inputs"]] == [values.ravel().tolist()] * 2
    assert found["outputs"] == [{"name": "y"}]
