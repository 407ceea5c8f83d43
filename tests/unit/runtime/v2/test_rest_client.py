"""OIP v2 over HTTP as tritonclient, an independent client, speaks it: every call of its sync and aio forms."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException
from unit.runtime.support import LOGISTIC, NAMES, UNSUPPORTED, Server, start_server

ROWS = np.array([[1, 2, 3, 4], [-9, 0, 0, 0]], dtype=np.float64)
LABELS = ["leave", "stay"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_server(tmp_path_factory.mktemp("server"), LOGISTIC, MODELYARD_MODEL_VERSION="7") as started:
        started.wait_for("/health/ready", 200)
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(f"{server.host}:{server.port}") as made:
        yield made


def tensor(values: Any, datatype: str = "FP64", *, name: str = "features", binary: bool = True) -> Any:
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def labels(result: Any, name: str = "prediction") -> list[str]:
    return [item.decode() if isinstance(item, bytes) else item for item in result.as_numpy(name).tolist()]


def test_health_and_metadata(client: Any) -> None:
    assert (client.is_server_live(), client.is_server_ready()) == (True, True)
    assert client.is_model_ready("churn")
    assert client.is_model_ready("churn", "7")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "modelyard"
    assert client.get_model_metadata("churn", "7") == {
        "name": "churn",
        "versions": ["7"],
        "platform": "logistic",
        "inputs": [{"name": "features", "datatype": "FP64", "shape": [-1, 4]}],
        "outputs": [
            {"name": "prediction", "datatype": "BYTES", "shape": [-1]},
            {
                "name": "probabilities",
                "datatype": "FP64",
                "shape": [-1, 2],
                "parameters": {"on_request": True},
            },
        ],
    }
    assert client.get_model_config("churn")["input"] == [
        {"name": "features", "data_type": "TYPE_FP64", "dims": [-1, 4]}
    ]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_coding", [None, "gzip", "deflate"])
def test_infer_in_every_form(
    client: Any, binary_in: bool, binary_out: bool, request_coding: str | None, response_coding: str | None
) -> None:
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("prediction", "probabilities")]

    result = client.infer(
        "churn",
        [tensor(np.tile(ROWS, (200, 1)), binary=binary_in)],
        outputs=outputs,
        request_id="r-1",
        request_compression_algorithm=request_coding,
        response_compression_algorithm=response_coding,
    )

    response = result.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == ("churn", "7", "r-1")
    assert labels(result) == LABELS * 200
    probabilities = result.as_numpy("probabilities")
    assert probabilities.shape == (400, 2)
    assert probabilities.sum(axis=1).tolist() == pytest.approx([1] * 400)
    assert [output["name"] for output in response["outputs"]] == ["prediction", "probabilities"]


def test_no_outputs_asked_gives_the_models_own(client: Any) -> None:
    result = client.infer("churn", [tensor(ROWS)], model_version="7")

    assert labels(result) == LABELS
    assert [output["name"] for output in result.get_response()["outputs"]] == ["prediction"]


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [
        ("BOOL", np.bool_),
        ("UINT8", np.uint8),
        ("UINT16", np.uint16),
        ("UINT32", np.uint32),
        ("UINT64", np.uint64),
        ("INT8", np.int8),
        ("INT16", np.int16),
        ("INT32", np.int32),
        ("INT64", np.int64),
        ("FP16", np.float16),
        ("FP32", np.float32),
        ("FP64", np.float64),
        ("BF16", ml_dtypes.bfloat16),
    ],
)
@pytest.mark.parametrize("binary", [True, False])
def test_every_datatype_of_numbers(client: Any, datatype: str, dtype: Any, binary: bool) -> None:
    if datatype == "BF16" and not binary:
        pytest.skip("BF16 has no form in JSON")
    rows = np.array([[1, 0, 1, 1], [0, 1, 0, 0]]).astype(dtype)

    result = client.infer("churn", [tensor(rows, datatype, binary=binary)])

    assert labels(result) == LABELS


def test_a_tensor_for_each_named_feature(client: Any) -> None:
    columns = [tensor(ROWS[:, [index]].astype(np.float32), "FP32", name=name) for index, name in enumerate(NAMES)]

    result = client.infer("churn", columns[::-1])

    assert labels(result) == LABELS


def test_asynchronous_requests(client: Any) -> None:
    requests = [client.async_infer("churn", [tensor(ROWS)]) for _ in range(4)]

    assert [labels(request.get_result()) for request in requests] == [LABELS] * 4


def test_a_raw_body_is_the_only_input(client: Any) -> None:
    response = client._post(
        "v2/models/churn/infer", ROWS.tobytes(), {"Inference-Header-Content-Length": "0"}, query_params=None
    )

    assert response.status_code == 200
    result = triton.InferResult(response, verbose=False)
    assert labels(result) == LABELS


def test_the_repository(client: Any) -> None:
    assert client.get_model_repository_index() == [{"name": "churn", "version": "7", "state": "READY", "reason": ""}]
    for change in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match=r"\[403\].*edit the ModelDeployment's spec.model"):
            change("churn")
    assert client.is_model_ready("churn")


def test_statistics_count_what_was_done(client: Any) -> None:
    before = client.get_inference_statistics("churn")["model_stats"][0]

    for _ in range(3):
        client.infer("churn", [tensor(ROWS)])
    with pytest.raises(InferenceServerException):
        client.infer("churn", [tensor(ROWS[:, :3])])

    after = client.get_inference_statistics("churn", "7")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 6
    assert after["execution_count"] - before["execution_count"] == 3
    grown = {
        key: value["count"] - before["inference_stats"][key]["count"] for key, value in after["inference_stats"].items()
    }
    assert grown == {
        "success": 3,
        "fail": 1,
        "queue": 3,
        "compute_input": 3,
        "compute_infer": 3,
        "compute_output": 3,
        "cache_hit": 0,
        "cache_miss": 0,
    }
    stages = ("queue", "compute_input", "compute_infer", "compute_output")
    spent = {key: value["ns"] for key, value in after["inference_stats"].items()}
    assert sum(spent[stage] for stage in stages) == spent["success"]
    assert client.get_inference_statistics()["model_stats"][0]["name"] == "churn"


@pytest.mark.parametrize(
    "call",
    [*UNSUPPORTED, lambda client: client.register_cuda_shared_memory("region", b"handle", 0, 64)],
)
def test_what_is_not_there_says_so(client: Any, call: Any) -> None:
    with pytest.raises(InferenceServerException, match=r"\[501\].*unsupported"):
        call(client)


def test_shared_memory_in_a_request_is_unsupported(client: Any) -> None:
    shared = triton.InferInput("features", [2, 4], "FP64")
    shared.set_shared_memory("region", 64)

    with pytest.raises(InferenceServerException, match=r"\[501\] shared memory is not supported"):
        client.infer("churn", [shared])


@pytest.mark.parametrize(
    ("model", "version", "made", "message"),
    [
        ("other", "", tensor(ROWS), r"\[404\] no model 'other'"),
        ("churn", "8", tensor(ROWS), r"\[404\] no version '8'"),
        ("churn", "", tensor(ROWS, name="x"), r"\[400\] .*lacks age, income.* has the unknown x"),
        ("churn", "", tensor(ROWS[:, :3]), r"\[400\] input features has shape \[2, 3\], and the model takes \[-1, 4\]"),
        ("churn", "", tensor(ROWS[:0]), r"\[400\] input features is empty"),
        (
            "churn",
            "",
            tensor(ROWS.astype(str).astype(object), "BYTES"),
            r"\[400\] .* is BYTES, and the model takes FP64",
        ),
    ],
)
def test_errors_have_the_protocols_form(client: Any, model: str, version: str, made: Any, message: str) -> None:
    with pytest.raises(InferenceServerException, match=message):
        client.infer(model, [made], model_version=version)


def test_the_aio_client(server: Server) -> None:
    async def calls() -> None:
        async with triton_aio.InferenceServerClient(f"{server.host}:{server.port}") as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("churn", "7")
            assert (await client.get_server_metadata())["extensions"]
            assert (await client.get_model_metadata("churn"))["platform"] == "logistic"
            assert (await client.get_model_config("churn"))["backend"] == "modelyard"
            assert (await client.get_model_repository_index())[0]["state"] == "READY"
            assert (await client.get_inference_statistics("churn"))["model_stats"]
            for binary in (True, False):
                outputs = [triton_aio.InferRequestedOutput("prediction", binary_data=binary)]
                for coding in (None, "gzip", "deflate"):
                    result = await client.infer(
                        "churn",
                        [tensor(ROWS, binary=binary)],
                        outputs=outputs,
                        request_compression_algorithm=coding,
                        response_compression_algorithm=coding,
                    )
                    assert labels(result) == LABELS
            for change in (client.load_model, client.unload_model):
                with pytest.raises(InferenceServerException, match="403"):
                    await change("churn")
            for unsupported in (
                client.get_trace_settings,
                client.get_log_settings,
                client.get_cuda_shared_memory_status,
            ):
                with pytest.raises(InferenceServerException, match="501"):
                    await unsupported()

    asyncio.run(calls())


def test_the_cache(tmp_path: Path) -> None:
    outputs = [[triton.InferRequestedOutput("probabilities", binary_data=binary)] for binary in (True, False, True)]
    with start_server(tmp_path, LOGISTIC) as server:
        server.wait_for("/health/ready", 200)
        with triton.InferenceServerClient(f"{server.host}:{server.port}") as client:
            answers = [
                client.infer(
                    "churn",
                    [tensor(ROWS)],
                    outputs=wanted,
                    request_id=str(index),
                    parameters={"use_cache": True},
                )
                for index, wanted in enumerate(outputs)
            ]

    responses = [answer.get_response() for answer in answers]
    assert [(response["id"], response["parameters"]) for response in responses] == [
        ("0", {"cached": False}),
        ("1", {"cached": True}),
        ("2", {"cached": True}),
    ]
    assert ["data" in response["outputs"][0] for response in responses] == [False, True, False]
    first, *others = [answer.as_numpy("probabilities").tolist() for answer in answers]
    assert others == [first, first]
