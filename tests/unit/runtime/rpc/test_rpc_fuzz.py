"""gRPC under fuzz: messages of changed bytes and of sizes that lie get the client's own error, and leave nothing."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb
from unit.runtime.fuzz.damage import damaged
from unit.runtime.support import LOGISTIC, Server, start_server

METHODS = ["ModelInfer", "ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad"]
CLIENTS_FAULT = {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "PERMISSION_DENIED", "DEADLINE_EXCEEDED"}
ROW = np.array([[1.0, 2, 3, 4]])


def message(*, raw: bool) -> bytes:
    request = pb.ModelInferRequest(model_name="churn", id="1")
    request.parameters["timeout"].int64_param = 5_000_000
    tensor = request.inputs.add(name="features", datatype="FP64", shape=[1, 4])
    if raw:
        request.raw_input_contents.append(ROW.tobytes())
    else:
        tensor.contents.fp64_contents.extend(ROW[0])
    request.outputs.add(name="prediction")
    return bytes(request.SerializeToString())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_server(tmp_path_factory.mktemp("server"), LOGISTIC) as started:
        started.wait_for("/health/ready", 200)
        yield started


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as made:
        yield made


def code(channel: grpc.Channel, data: bytes, method: str = "ModelInfer") -> str:
    """Return the status of a call; no answer within the minute would be a hang."""
    try:
        channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(data, timeout=60)
    except grpc.RpcError as exc:
        return "HANGS" if exc.details() == "Deadline Exceeded" else str(exc.code().name)
    return "OK"


@pytest.mark.parametrize("raw", [True, False])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_changed_bytes_get_an_answer_or_the_clients_own_error(
    channel: grpc.Channel, raw: bool, data: st.DataObject
) -> None:
    good = message(raw=raw)
    assert code(channel, good) == "OK"

    body, method = data.draw(damaged(good)), data.draw(st.sampled_from(METHODS))

    assert code(channel, body, method) in {"OK", *CLIENTS_FAULT}


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 70), max_size=3),
    shape=st.lists(st.sampled_from([0, 1, 4, 2**31, 2**47, 2**48, 2**62, -1]), max_size=33),
    datatype=st.sampled_from(["FP64", "INT8", "BOOL", "BYTES", "BF16"]),
)
def test_raw_contents_of_another_size_get_the_clients_own_error(
    channel: grpc.Channel, sizes: list[int], shape: list[int], datatype: str
) -> None:
    request = pb.ModelInferRequest(model_name="churn", raw_input_contents=[bytes(size) for size in sizes])
    request.inputs.add(name="features", datatype=datatype, shape=shape)

    assert code(channel, request.SerializeToString()) in {"OK", "INVALID_ARGUMENT"}


def test_half_a_million_inputs_are_refused_at_once(channel: grpc.Channel, server: Server) -> None:
    """Reading them one by one would take seconds, in which nobody else is answered."""
    request = pb.ModelInferRequest(model_name="churn")
    for index in range(500_000):
        request.inputs.add(name=f"n{index}", datatype="FP64", shape=[0])

    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(request.SerializeToString(), timeout=60)

    assert caught.value.details() == "the request has more than 100000 inputs or outputs; send fewer"
    assert httpx.get(f"{server.url}/health/ready", timeout=30).status_code == 200


@pytest.mark.parametrize("raw", [True, False])
def test_a_large_message_is_answered(channel: grpc.Channel, raw: bool) -> None:
    """Read in a thread, with the same result as a small one."""
    rows = np.tile(ROW, (20_000, 1))
    request = pb.ModelInferRequest.FromString(message(raw=raw))
    request.inputs[0].shape[:] = rows.shape
    if raw:
        request.raw_input_contents[0] = rows.tobytes()
    else:
        request.inputs[0].contents.fp64_contents[:] = rows.reshape(-1).tolist()
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer", response_deserializer=pb.ModelInferResponse.FromString
    )

    answer = call(request.SerializeToString(), timeout=60)

    assert answer.outputs[0].shape == [20_000]
    if raw:
        assert answer.raw_output_contents[0] == b"\x05\0\0\0leave" * 20_000
    else:
        assert answer.outputs[0].contents.bytes_contents == [b"leave"] * 20_000


def test_wrong_messages_leave_no_memory(channel: grpc.Channel, server: Server) -> None:
    wrong = [message(raw=True)[:-9], b"\xff" * 200, message(raw=False).replace(b"churn", b"other"), bytes(200_000)]
    process = psutil.Process(server.process.pid)

    def send(rounds: int) -> int:
        for _ in range(rounds):
            for data in wrong:
                assert code(channel, data) in CLIENTS_FAULT
        return int(process.memory_info().rss)

    before = send(300)
    after = send(600)

    assert after - before < 4 * 600 * 1024, "more than 1 KiB a request stays"
