"""OIP v2 over gRPC as tritonclient, an independent client, speaks it: every call of its sync and aio forms."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from google.protobuf.descriptor_pool import Default
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException
from unit.runtime.support import LOGISTIC, NAMES, UNSUPPORTED, Server, start_server
from waiting import eventually

ROWS = np.array([[1, 2, 3, 4], [-9, 0, 0, 0]], dtype=np.float64)
LABELS = ["leave", "stay"]
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with start_server(folder, LOGISTIC, MODELYARD_MODEL_VERSION="7", MODELYARD_MAX_BODY_BYTES="1000000") as started:
        started.wait_for("/health/ready", 200)
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(f"{server.host}:{server.grpc_port}") as made:
        yield made


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as made:
        yield made


def tensor(values: Any, datatype: str = "FP64", *, name: str = "features") -> Any:
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def labels(result: Any) -> list[str]:
    return [item.decode() for item in result.as_numpy("prediction").tolist()]


def contents(datatype: str = "FP64", **values: Any) -> Any:
    request = pb.ModelInferRequest(model_name="churn")
    request.inputs.add(name="features", datatype=datatype, shape=[1, 4], contents=pb.InferTensorContents(**values))
    return request


def infer(channel: grpc.Channel, request: Any) -> Any:
    call = channel.unary_unary(
        INFER,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    return call(request, timeout=20)


def test_health_and_metadata(client: Any) -> None:
    assert (client.is_server_live(), client.is_server_ready()) == (True, True)
    assert client.is_model_ready("churn", "7")
    with pytest.raises(InferenceServerException, match=r"NOT_FOUND"):
        client.is_model_ready("other")
    assert client.get_server_metadata(as_json=True)["name"] == "modelyard"
    assert client.get_model_metadata("churn", as_json=True) == {
        "name": "churn",
        "versions": ["7"],
        "platform": "logistic",
        "inputs": [{"name": "features", "datatype": "FP64", "shape": ["-1", "4"]}],
        "outputs": [
            {"name": "prediction", "datatype": "BYTES", "shape": ["-1"]},
            {"name": "probabilities", "datatype": "FP64", "shape": ["-1", "2"]},
        ],
    }
    config = client.get_model_config("churn", as_json=True)["config"]
    assert (config["backend"], config["input"]) == (
        "modelyard",
        [{"name": "features", "data_type": "TYPE_FP64", "dims": ["-1", "4"]}],
    )


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
def test_infer(client: Any, coding: str | None) -> None:
    outputs = [triton.InferRequestedOutput(name) for name in ("probabilities", "prediction")]

    result = client.infer("churn", [tensor(ROWS)], outputs=outputs, request_id="r-1", compression_algorithm=coding)

    response = result.get_response(as_json=True)
    assert (response["model_name"], response["model_version"], response["id"]) == ("churn", "7", "r-1")
    assert [output["name"] for output in response["outputs"]] == ["probabilities", "prediction"]
    assert labels(result) == LABELS
    assert result.as_numpy("probabilities").sum(axis=1).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [
        ("BOOL", np.bool_),
        ("UINT8", np.uint8),
        ("UINT64", np.uint64),
        ("INT8", np.int8),
        ("INT32", np.int32),
        ("INT64", np.int64),
        ("FP16", np.float16),
        ("FP32", np.float32),
        ("BF16", ml_dtypes.bfloat16),
    ],
)
def test_datatypes_as_raw_bytes(client: Any, datatype: str, dtype: Any) -> None:
    rows = np.array([[1, 0, 1, 1], [0, 1, 0, 0]]).astype(dtype)

    assert labels(client.infer("churn", [tensor(rows, datatype)])) == LABELS


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("FP64", {"fp64_contents": [1, 2, 3, 4]}),
        ("FP32", {"fp32_contents": [1, 2, 3, 4]}),
        ("INT8", {"int_contents": [1, 2, 3, 4]}),
        ("INT64", {"int64_contents": [1, 2, 3, 4]}),
        ("UINT16", {"uint_contents": [1, 2, 3, 4]}),
        ("UINT64", {"uint64_contents": [1, 2, 3, 4]}),
        ("BOOL", {"bool_contents": [True] * 4}),
    ],
)
def test_contents_are_answered_with_contents(channel: grpc.Channel, datatype: str, values: Any) -> None:
    response = infer(channel, contents(datatype, **values))

    assert list(response.outputs[0].contents.bytes_contents) == [b"leave"]
    assert not response.raw_output_contents


def test_a_tensor_for_each_named_feature(client: Any) -> None:
    columns = [tensor(ROWS[:, [index]], name=name) for index, name in enumerate(NAMES)]

    assert labels(client.infer("churn", columns)) == LABELS


def test_asynchronous_requests(client: Any) -> None:
    done: list[Any] = []

    client.async_infer("churn", [tensor(ROWS)], callback=lambda result, error: done.append((result, error)))

    eventually(lambda: done)
    assert labels(done[0][0]) == LABELS


def test_the_cache_is_used_only_when_asked(client: Any) -> None:
    rows, wish = np.array([[5.0, 5, 5, 5]]), {"use_cache": True}
    before = client.get_inference_statistics("churn").model_stats[0].inference_stats

    answers = [
        client.infer("churn", [tensor(rows)], request_id=name, parameters=parameters)
        for name, parameters in (("a", None), ("b", wish), ("c", wish), ("d", {"use_cache": False}))
    ]

    responses = [answer.get_response() for answer in answers]
    after = client.get_inference_statistics("churn").model_stats[0].inference_stats
    assert [labels(answer) for answer in answers] == [["leave"]] * 4
    assert [response.id for response in responses] == ["a", "b", "c", "d"]
    assert [dict(response.parameters) for response in responses] == [
        {},
        {"cached": pb.InferParameter(bool_param=False)},
        {"cached": pb.InferParameter(bool_param=True)},
        {},
    ]
    assert (after.cache_hit.count - before.cache_hit.count, after.cache_miss.count - before.cache_miss.count) == (1, 1)
    assert after.compute_infer.count - before.compute_infer.count == 3


def test_rest_and_grpc_share_what_is_cached_and_keep_their_forms(client: Any, server: Server) -> None:
    rows, wish = np.array([[6.0, 6, 6, 6]]), {"use_cache": True}
    request = contents(fp64_contents=[6, 6, 6, 6])
    request.parameters["use_cache"].bool_param = True
    rest_input = triton_http.InferInput("features", [1, 4], "FP64")
    rest_input.set_data_from_numpy(rows)

    client.infer("churn", [tensor(rows)], parameters=wish)
    with triton_http.InferenceServerClient(f"{server.host}:{server.port}") as rest:
        over_rest = rest.infer("churn", [rest_input], parameters=wish)
    with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
        typed = infer(channel, request)

    assert over_rest.get_response()["parameters"] == {"cached": True}
    assert labels(over_rest) == ["leave"]
    assert typed.parameters["cached"].bool_param
    assert list(typed.outputs[0].contents.bytes_contents) == [b"leave"]
    assert not typed.raw_output_contents


def test_a_wish_for_the_cache_that_is_no_boolean_is_an_error(client: Any) -> None:
    for wish in ("true", 1):
        with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*use_cache needs to be true or false"):
            client.infer("churn", [tensor(ROWS)], parameters={"use_cache": wish})


def test_the_repository(client: Any) -> None:
    index = client.get_model_repository_index(as_json=True)

    assert index == {"models": [{"name": "churn", "version": "7", "state": "READY"}]}
    for change in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match=r"PERMISSION_DENIED.*edit the ModelDeployment's spec.model"):
            change("churn")


def test_statistics(client: Any) -> None:
    before = client.get_inference_statistics("churn").model_stats[0]

    client.infer("churn", [tensor(ROWS)])

    after = client.get_inference_statistics("churn", "7").model_stats[0]
    assert after.inference_count - before.inference_count == 2
    assert after.execution_count - before.execution_count == 1
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert [batch.batch_size for batch in after.batch_stats if batch.batch_size == 2] == [2]


@pytest.mark.parametrize("call", UNSUPPORTED)
def test_what_is_not_there_is_unimplemented(client: Any, call: Any) -> None:
    with pytest.raises(InferenceServerException, match=r"UNIMPLEMENTED"):
        call(client)


def test_streaming_is_unimplemented(client: Any) -> None:
    errors: list[Any] = []
    client.start_stream(callback=lambda result, error: errors.append(error))

    eventually(lambda: errors)
    client.stop_stream()

    assert "UNIMPLEMENTED" in str(errors[0])


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (pb.ModelInferRequest(model_name="other"), "NOT_FOUND", "no model 'other'"),
        (pb.ModelInferRequest(model_name="churn", model_version="8"), "NOT_FOUND", "no version '8'"),
        (pb.ModelInferRequest(model_name="churn"), "INVALID_ARGUMENT", "no inputs"),
        (contents(fp64_contents=[1, 2]), "INVALID_ARGUMENT", "has 2 elements"),
        (contents(fp32_contents=[1, 2, 3, 4]), "INVALID_ARGUMENT", "goes to fp64_contents"),
        (contents("INT8", int_contents=[1, 2, 3, 300]), "INVALID_ARGUMENT", "INT8 can't hold"),
        (contents("FP16", fp32_contents=[1, 2, 3, 4]), "INVALID_ARGUMENT", "raw_input_contents"),
        (contents("BYTES", bytes_contents=[b"\xff"] * 4), "INVALID_ARGUMENT", "not UTF-8"),
        (contents("x"), "INVALID_ARGUMENT", "datatype of input features"),
    ],
)
def test_errors_are_grpcs_own(channel: grpc.Channel, request_: Any, code: str, message: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, request_)

    assert caught.value.code().name == code
    assert message in caught.value.details()


def test_raw_and_contents_do_not_mix(channel: grpc.Channel) -> None:
    request = contents(fp64_contents=[1, 2, 3, 4])
    request.raw_input_contents.append(ROWS[0].tobytes())

    with pytest.raises(grpc.RpcError, match="has contents beside raw_input_contents"):
        infer(channel, request)


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_messages_over_the_limit_are_refused(channel: grpc.Channel, compression: grpc.Compression) -> None:
    call = channel.unary_unary(INFER)

    with pytest.raises(grpc.RpcError) as caught:
        call(bytes(30_000_000), timeout=20, compression=compression)

    assert caught.value.code().name == "RESOURCE_EXHAUSTED"


def test_health_as_grpc_clients_ask_for_it(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)

    for service in ("", "inference.GRPCInferenceService"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_names_the_services(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)

    file = database.FindFileContainingSymbol("inference.ModelInferRequest")

    assert set(database.get_services()) == {
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert file.package == "inference"
    assert Default().FindFileByName("grpc_service.proto")  # the client's own copy is not disturbed


def test_the_metrics_name_the_protocol(client: Any, server: Server) -> None:
    import httpx

    client.infer("churn", [tensor(ROWS)])

    assert 'model="churn",protocol="grpc",version="7"' in httpx.get(f"{server.url}/metrics").text


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=80))
def test_any_bytes_get_an_answer_or_the_clients_own_error(channel: grpc.Channel, data: bytes) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(INFER)(data, timeout=20)

    assert caught.value.code().name in ("INVALID_ARGUMENT", "NOT_FOUND")


@settings(max_examples=200, deadline=None)
@given(
    raw=st.lists(st.binary(max_size=40), max_size=3),
    datatype=st.sampled_from(["BOOL", "UINT8", "INT64", "FP16", "FP64", "BF16", "BYTES", ""]),
    shape=st.lists(st.integers(-1, 5) | st.integers(-(2**63), 2**63 - 1), max_size=3),
    name=st.sampled_from(["features", "age", ""]),
)
def test_any_tensor_gets_an_answer_or_the_clients_own_error(
    channel: grpc.Channel, raw: list[bytes], datatype: str, shape: list[int], name: str
) -> None:
    request = pb.ModelInferRequest(model_name="churn", raw_input_contents=raw)
    request.inputs.add(name=name, datatype=datatype, shape=shape)

    try:
        infer(channel, request)
    except grpc.RpcError as exc:
        assert exc.code().name == "INVALID_ARGUMENT", exc.details()  # noqa: PT017 -- most examples raise, some don't


def test_the_aio_client(server: Server) -> None:
    async def calls() -> None:
        async with triton_aio.InferenceServerClient(f"{server.host}:{server.grpc_port}") as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("churn")
            assert (await client.get_server_metadata()).name == "modelyard"
            assert (await client.get_model_metadata("churn")).platform == "logistic"
            assert (await client.get_model_config("churn")).config.backend == "modelyard"
            assert (await client.get_model_repository_index()).models[0].state == "READY"
            assert (await client.get_inference_statistics("churn")).model_stats
            for coding in (None, "gzip", "deflate"):
                assert labels(await client.infer("churn", [tensor(ROWS)], compression_algorithm=coding)) == LABELS
            for change in (client.load_model, client.unload_model):
                with pytest.raises(InferenceServerException, match="PERMISSION_DENIED"):
                    await change("churn")
            for missing in (client.get_trace_settings, client.get_log_settings, client.get_cuda_shared_memory_status):
                with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
                    await missing()

    asyncio.run(calls())


def test_sigterm_under_load_loses_nothing(tmp_path: Path) -> None:
    """Clients that watch nothing, with gRPC's own reconnecting: every call gets its answer."""
    with start_server(tmp_path, LOGISTIC, MODELYARD_DRAIN_DELAY="1000") as server:
        server.wait_for("/health/ready", 200)
        with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            request = contents(fp64_contents=[1, 2, 3, 4])
            infer(channel, request)

            server.process.terminate()
            while stub.Check(health_pb2.HealthCheckRequest()).status != health_pb2.HealthCheckResponse.NOT_SERVING:
                infer(channel, request)
            for _ in range(100):
                infer(channel, request)
            server.process.terminate()  # the second signal skips the rest of the delay

            assert server.finish() == 0
