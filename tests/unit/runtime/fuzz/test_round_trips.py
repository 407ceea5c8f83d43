"""What independent encoders write is read as they meant it: tritonclient, Python's own json, numpy."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from modelyard_runtime.formats import TensorSpec
from modelyard_runtime.protocols.json_reader import JsonReader, parse_object
from modelyard_runtime.protocols.rows import rows_of_features, rows_of_instances
from modelyard_runtime.protocols.rpc.messages import Messages
from modelyard_runtime.protocols.rpc.tensors import read_request
from modelyard_runtime.protocols.v2.datatypes import from_json, from_raw, to_json, to_raw
from modelyard_runtime.protocols.v2.request import parse_infer
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton_http
from tritonclient.utils import deserialize_bytes_tensor, np_to_triton_dtype, serialize_byte_tensor
from unit.runtime.support import NAMES, FakeModel

SHAPES = npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)
NUMBERS = st.sampled_from(["?", "<u1", "<u2", "<u4", "<u8", "<i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"])
TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def same(found: Any, meant: Any) -> None:
    assert (found.dtype, found.shape) == (meant.dtype, meant.shape)
    np.testing.assert_array_equal(found, meant)


@settings(max_examples=300, deadline=None)
@given(values=NUMBERS.flatmap(lambda dtype: npst.arrays(dtype, SHAPES)))
def test_raw_numbers(values: Any) -> None:
    tensor = triton_http.InferInput("x", list(values.shape), np_to_triton_dtype(values.dtype))
    tensor.set_data_from_numpy(values)
    raw = tensor._get_binary_data()

    same(from_raw(raw, tensor.datatype(), values.shape, "x"), values)
    assert to_raw(values) == raw


@settings(max_examples=200, deadline=None)
@given(values=npst.arrays(object, SHAPES, elements=TEXT, fill=st.nothing()))
def test_raw_text(values: Any) -> None:
    raw = serialize_byte_tensor(values).item() if values.size else b""

    same(from_raw(raw, "BYTES", values.shape, "x"), values)
    assert [item.decode() for item in deserialize_bytes_tensor(to_raw(values))] == values.reshape(-1).tolist()


@settings(max_examples=300, deadline=None)
@given(
    values=st.sampled_from(["?", "<u1", "<u8", "<i1", "<i8", "<f2", "<f4", "<f8"]).flatmap(
        lambda dtype: npst.arrays(
            dtype, SHAPES, elements={"allow_nan": False, "allow_infinity": False} if "f" in dtype else None
        )
    )
)
def test_numbers_in_json(values: Any) -> None:
    datatype = np_to_triton_dtype(values.dtype)

    for data in (values.tolist(), values.reshape(-1).tolist()):
        if 0 not in values.shape or data == []:
            same(from_json(orjson.loads(json.dumps(data)), datatype, values.shape, "x"), values)
    written = json.loads(orjson.dumps(to_json(values)))
    same(np.array(written, dtype=values.dtype).reshape(values.shape), values)


@settings(max_examples=150, deadline=None)
@given(
    tensors=st.dictionaries(
        st.text("abc", min_size=1, max_size=3), NUMBERS.flatmap(lambda dtype: npst.arrays(dtype, SHAPES)), min_size=1
    )
)
def test_whole_requests_of_tritonclient(tensors: dict[str, Any]) -> None:
    """Several tensors, raw: REST's body and gRPC's message."""
    rest: list[Any] = []
    rpc: list[Any] = []
    for name, values in tensors.items():
        for module, inputs in ((triton_http, rest), (triton_grpc, rpc)):
            made = module.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
            made.set_data_from_numpy(values)
            inputs.append(made)
    body, length = triton_http.InferenceServerClient.generate_request_body(rest)
    message = triton_grpc.service_pb2.ModelInferRequest(
        inputs=[made._get_tensor() for made in rpc], raw_input_contents=[made._get_content() or b"" for made in rpc]
    )
    own = Messages().methods["ModelInfer"][0].FromString(message.SerializeToString())

    for request in (parse_infer(bytes(body), length, FakeModel(), JsonReader()), read_request(own)):
        assert list(request.inputs) == list(tensors)
        for name, values in tensors.items():
            same(request.inputs[name], values)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.lists(FLOATS | st.integers(-(2**63), 2**64 - 1), min_size=4, max_size=4), min_size=1, max_size=9)
)
def test_rows_of_the_seed_and_v1(rows: list[list[float]]) -> None:
    """Numbers as Python's json writes them, rows as lists and as objects of names in any order."""
    model = FakeModel(features=4, feature_names=NAMES)
    named = [dict(reversed(list(zip(NAMES, row, strict=True)))) for row in rows]
    meant = np.array(rows, dtype=np.float64)

    for instances in (rows, named):
        found = parse_object(json.dumps({"instances": instances}).encode())
        same(rows_of_instances(model, found["instances"]), meant)
        same(rows_of_features(model, found["instances"][0]), meant[:1])


@pytest.mark.parametrize("length", [1, 5])
def test_a_body_of_one_raw_tensor(length: int) -> None:
    values = np.arange(4.0 * length).reshape(length, 4)
    model = FakeModel(inputs=(TensorSpec("features", "FP64", (-1, 4)),))

    same(parse_infer(values.tobytes(), 0, model, JsonReader()).inputs["features"], values)
