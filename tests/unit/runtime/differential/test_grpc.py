"""The Open Inference Protocol over gRPC: alike with and without shortcuts, and whatever came before."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from modelyard_runtime.protocols.rpc.messages import SERVICE, Messages
from unit.runtime.differential.ways import REPEATS, Ways

REQUEST = Messages().methods["ModelInfer"][0]
FOUR = struct.pack("<4d", 1, 2, 3, 4)


@pytest.fixture(scope="module")
def calls(ways: Ways) -> Iterator[list[Any]]:
    """ModelInfer of each server, from bytes to bytes."""
    channels = [grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") for server in ways]
    yield [channel.unary_unary(f"/{SERVICE}/ModelInfer") for channel in channels]
    for channel in channels:
        channel.close()


def message(
    raw: bytes | None = FOUR,
    *,
    datatype: str = "FP64",
    shape: tuple[int, ...] = (1, 4),
    model: str = "ident",
    contents: dict[str, list[Any]] | None = None,
    name: str = "features",
    parameters: dict[str, Any] | None = None,
    **fields: Any,
) -> Any:
    request = REQUEST(model_name=model, **fields)
    tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
    for field, values in (contents or {}).items():
        getattr(tensor.contents, field).extend(values)
    for key, value in (parameters or {}).items():
        field = "bool_param" if isinstance(value, bool) else "int64_param"
        setattr(request.parameters[key], field, value)
    if raw is not None:
        request.raw_input_contents.append(raw)
    return request


def both(calls: list[Any], data: bytes, *, remembers: bool = False) -> tuple[str, str, bytes]:
    """Return the code, the details and the answer of a call, the same of both servers however often it is made."""
    short, general = ([outcome(call, data) for _ in range(REPEATS)] for call in calls)
    assert short == general
    if not remembers:
        assert set(short) == {short[0]}
    return short[-1]


def outcome(call: Any, data: bytes) -> tuple[str, str, bytes]:
    try:
        return "OK", "", call(data, timeout=20)
    except grpc.RpcError as exc:
        return exc.code().name, exc.details(), b""


LIKES = [
    message(),
    message(struct.pack("<4f", 1, 2, 3, 4), datatype="FP32"),
    message(b"\x80\x3f\x00\x40\x40\x40\x80\x40", datatype="BF16"),
    message(None, contents={"fp64_contents": [1, 2, 3, 4]}),
]


@pytest.mark.parametrize(
    ("request_message", "code"),
    [
        pytest.param(message(), "OK", id="FP64"),
        pytest.param(message(id="a"), "OK", id="an id"),
        pytest.param(message(id="b" * 127), "OK", id="an id of 127 bytes"),
        pytest.param(message(id="c" * 128), "OK", id="an id of 128 bytes"),
        pytest.param(message(id="\u00e4\u20ac"), "OK", id="an id beyond ASCII"),
        pytest.param(message(struct.pack("<4d", 1, float("nan"), 3, 4)), "OK", id="NaN"),
        pytest.param(message(struct.pack("<4d", 1, float("inf"), 3, 4)), "OK", id="Infinity"),
        pytest.param(message(struct.pack("<4d", *[1e308] * 4), model="over"), "OK", id="an overflow"),
        pytest.param(message(struct.pack("<4f", 1, 2, 3, 4), datatype="FP32"), "OK", id="FP32"),
        pytest.param(message(struct.pack("<4f", 1, float("nan"), 3, 4), datatype="FP32"), "OK", id="FP32 NaN"),
        pytest.param(message(b"\x80\x3f\x00\x40\x40\x40\x80\x40", datatype="BF16"), "OK", id="BF16"),
        pytest.param(
            message(struct.pack("<4f", 5, 6, 7, 8), datatype="BF16"), "INVALID_ARGUMENT", id="BF16 of twice the size"
        ),
        pytest.param(message(struct.pack("<4q", 1, 2, 3, 4), datatype="INT64"), "OK", id="INT64"),
        pytest.param(message(FOUR[:-1]), "INVALID_ARGUMENT", id="a byte too few"),
        pytest.param(message(FOUR + b"\0"), "INVALID_ARGUMENT", id="a byte too many"),
        pytest.param(message(FOUR + FOUR), "INVALID_ARGUMENT", id="twice the numbers"),
        pytest.param(message(FOUR + FOUR, shape=(2, 4)), "OK", id="two rows"),
        pytest.param(message(FOUR, shape=(4,)), "INVALID_ARGUMENT", id="a shape of one dimension"),
        pytest.param(message(FOUR, shape=(1, -4)), "INVALID_ARGUMENT", id="a negative shape"),
        pytest.param(message(b"", shape=(0, 4)), "INVALID_ARGUMENT", id="no rows"),
        pytest.param(message(datatype="FP65"), "INVALID_ARGUMENT", id="no datatype"),
        pytest.param(message(name=""), "INVALID_ARGUMENT", id="no name"),
        pytest.param(message(model="none"), "NOT_FOUND", id="no such model"),
        pytest.param(message(model=""), "NOT_FOUND", id="no model"),
        pytest.param(message(model_version="none"), "NOT_FOUND", id="no such version"),
        pytest.param(
            message(FOUR, contents={"fp64_contents": [1, 2, 3, 4]}), "INVALID_ARGUMENT", id="contents beside raw ones"
        ),
        pytest.param(message(None), "INVALID_ARGUMENT", id="no contents"),
        pytest.param(message(None, contents={"fp64_contents": [1, 2, 3, 4]}), "OK", id="contents"),
        pytest.param(message(None, contents={"fp64_contents": [1, 2, 3]}), "INVALID_ARGUMENT", id="too few contents"),
        pytest.param(
            message(None, contents={"fp32_contents": [1, 2, 3, 4]}), "INVALID_ARGUMENT", id="contents of another type"
        ),
        pytest.param(message(None, contents={"fp64_contents": [1, float("nan"), 3, 4]}), "OK", id="NaN in contents"),
        pytest.param(message(parameters={"binary_data_output": True}), "OK", id="a parameter"),
        pytest.param(message(parameters={"timeout": -1}), "INVALID_ARGUMENT", id="a negative timeout"),
    ],
)
def test_a_call_means_the_same_after_its_like(calls: list[Any], request_message: Any, code: str) -> None:
    for like in LIKES:
        assert both(calls, like.SerializeToString())[0] == "OK"

    assert both(calls, request_message.SerializeToString())[0] == code


def test_fields_in_another_order_mean_the_same(calls: list[Any]) -> None:
    """Protocol Buffers allow it, and the last of two values counts."""
    fields = [REQUEST(model_name="ident"), REQUEST(id="a")]
    tensor = REQUEST()
    tensor.inputs.add(name="features", datatype="FP64", shape=(1, 4))
    raw = REQUEST(raw_input_contents=[FOUR])
    fields += [tensor, raw]
    data = [field.SerializeToString() for field in fields]

    seen = {both(calls, b"".join(order)) for order in (data, data[::-1], [data[3], *data[:3]], data[1:] + data[:1])}
    twice = both(calls, b"".join([REQUEST(id="first").SerializeToString(), *data]))
    unknown = both(calls, b"".join([*data, b"\xf8\x3f\x01"]))  # a field of number 1023

    assert {code for code, _, _ in seen} == {"OK"}
    assert seen == {twice, unknown}


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\xff" * 9, message().SerializeToString()[:-1], message().SerializeToString() + b"\x0a"],
    ids=["nothing", "NUL", "no tag", "cut off", "a tag alone"],
)
def test_what_is_no_message_is_the_clients_error(calls: list[Any], data: bytes) -> None:
    assert both(calls, data)[0] in ("INVALID_ARGUMENT", "NOT_FOUND")


def test_cached_answers_come_alike(calls: list[Any]) -> None:
    for value in range(3):
        request = message(struct.pack("<4d", 9000 + value, 2, 3, 4), parameters={"use_cache": True})

        assert both(calls, request.SerializeToString(), remembers=True)[0] == "OK"
