"""Models of PyTorch's as a real server with PyTorch answers, over every protocol: as their modules themselves do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException
from unit.runtime.support import Server

Start = Callable[..., Server]
ROWS = np.array([[0.5, -1.0, 2.0], [3.0, 0.25, -0.5], [0.0, 1.0, 1.5]])
CODES = np.array([0, 2, 1])


def ready(start: Start, name: str, **env: str) -> Server:
    server = start(name, **env)
    server.wait_for("/health/ready", 200)
    return server


def post(server: Server, path: str, body: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=30)


def infer(server: Server, module: Any, *tensors: tuple[str, Any, str], outputs: Any = ()) -> Any:
    """Ask over REST or gRPC, with the client that `module` is."""
    inputs = []
    for name, values, datatype in tensors:
        made = module.InferInput(name, list(values.shape), datatype)
        made.set_data_from_numpy(values)
        inputs.append(made)
    port = server.port if module is triton_http else server.grpc_port
    wanted = [module.InferRequestedOutput(name) for name in outputs] or None
    with module.InferenceServerClient(f"{server.host}:{port}") as client:
        return client.infer("churn", inputs, outputs=wanted)


@pytest.mark.parametrize("name", ["program", "one-row", "bare-script"])
def test_rows_of_features(name: str, serve_artifact: Start, answers: dict[str, Any]) -> None:
    server = ready(serve_artifact, name)
    expected = answers[name][0]

    batch = post(server, "/predict/batch", {"instances": ROWS.tolist()}).json()
    v1 = post(server, "/v1/models/churn:predict", {"instances": ROWS.tolist()}).json()
    single = [post(server, "/predict", {"features": row}).json() for row in ROWS.tolist()]

    np.testing.assert_allclose(batch["predictions"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(v1["predictions"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([answer["prediction"] for answer in single], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("module", [triton_http, triton_grpc])
def test_an_exported_program_over_the_open_inference_protocol(
    module: Any, serve_artifact: Start, answers: dict[str, Any]
) -> None:
    server = ready(serve_artifact, "program")

    for values, datatype in ((ROWS.astype(np.float32), "FP32"), (ROWS, "FP64")):
        result = infer(server, module, ("input", values, datatype))

        np.testing.assert_allclose(result.as_numpy("prediction")[:, 0], answers["program"][0], rtol=1e-5, atol=1e-6)
    with pytest.raises(InferenceServerException, match="takes"):
        infer(server, module, ("input", ROWS[:, :2].astype(np.float32), "FP32"))
    with pytest.raises(InferenceServerException, match="BYTES"):
        infer(server, module, ("input", np.array([[b"a", b"b", b"c"]], dtype=object), "BYTES"))


@pytest.mark.parametrize("module", [triton_http, triton_grpc])
def test_two_inputs_and_two_outputs_by_name(module: Any, serve_artifact: Start, answers: dict[str, Any]) -> None:
    server = ready(serve_artifact, "two")
    score, top = answers["two"]

    result = infer(server, module, ("code", CODES, "INT64"), ("numbers", ROWS.astype(np.float32), "FP32"))

    np.testing.assert_allclose(result.as_numpy("score"), score, rtol=1e-5, atol=1e-6)
    assert result.as_numpy("top").tolist() == top
    only = infer(server, module, ("code", CODES, "INT64"), ("numbers", ROWS, "FP64"), outputs=("top",))
    assert (only.as_numpy("top").tolist(), only.as_numpy("score")) == (top, None)


def test_what_two_inputs_do_not_take(serve_artifact: Start) -> None:
    server = ready(serve_artifact, "two")
    numbers = {"name": "numbers", "shape": [3, 3], "datatype": "FP32", "data": ROWS.tolist()}

    def code(data: Any, datatype: str = "INT64") -> dict[str, Any]:
        return {"name": "code", "shape": [len(data)], "datatype": datatype, "data": data}

    for inputs, reason in (
        ([numbers], "input code is missing"),
        ([numbers, code([0.0, 1.0, 2.0], "FP32")], "FP32, and the model takes INT64"),
        ([numbers, code([0, 1])], "refuses these inputs"),
        ([numbers, code([0, 1, 99])], "refuses these inputs"),
    ):
        response = post(server, "/v2/models/churn/infer", {"inputs": inputs})
        assert (400 <= response.status_code < 500, reason in response.text) == (True, True), response.text
    response = post(server, "/predict", {"features": [1, 2, 3]})
    assert (response.status_code, "several inputs (numbers, code)" in response.text) == (422, True)


def test_torchscript_with_a_signature(serve_artifact: Start, answers: dict[str, Any]) -> None:
    server = ready(serve_artifact, "script")
    logits, place = answers["script"]

    metadata = httpx.get(server.url + "/v2/models/churn", timeout=30).json()
    result = infer(server, triton_grpc, ("rows", ROWS.astype(np.float32), "FP32"))

    assert metadata["inputs"] == [{"name": "rows", "datatype": "FP32", "shape": [-1, 3]}]
    assert metadata["outputs"] == [
        {"name": "prediction", "datatype": "FP32", "shape": [-1, 4]},
        {"name": "output_1", "datatype": "INT64", "shape": [-1]},
    ]
    np.testing.assert_allclose(result.as_numpy("prediction"), logits, rtol=1e-5, atol=1e-6)
    assert result.as_numpy("output_1").tolist() == place


def test_torchscript_that_says_nothing_of_its_inputs_refuses_what_it_can_not_compute(serve_artifact: Start) -> None:
    server = ready(serve_artifact, "bare-script")

    response = post(server, "/predict", {"features": [1, 2, 3, 4]})

    assert response.status_code == 422
    assert "shapes cannot be multiplied" in response.json()["error"]


def test_an_image_over_the_open_inference_protocol(serve_artifact: Start, answers: dict[str, Any]) -> None:
    server = ready(serve_artifact, "image")
    picture, means = (np.array(part, dtype=np.float32) for part in answers["image"])

    result = infer(server, triton_http, ("image", picture, "FP32"))

    np.testing.assert_allclose(result.as_numpy("prediction"), means, rtol=1e-5, atol=1e-6)
    assert "takes no rows" in post(server, "/predict", {"features": [1, 2, 3]}).json()["error"]


def test_a_pickled_module_with_its_code_beside_it(serve_artifact: Start, answers: dict[str, Any]) -> None:
    server = ready(serve_artifact, "module")

    batch = post(server, "/predict/batch", {"instances": ROWS.tolist()}).json()

    np.testing.assert_allclose(batch["predictions"], answers["module"][0], rtol=1e-5, atol=1e-6)


def test_modules_run_for_inference_in_as_many_threads_as_were_given(serve_artifact: Start) -> None:
    server = ready(serve_artifact, "how-it-runs", OMP_NUM_THREADS="3")

    answer = post(server, "/predict", {"features": [1]}).json()

    assert answer["prediction"] == [3, 1, 0]


def test_a_server_that_may_not_run_code_does_not_start(serve_artifact: Start) -> None:
    server = serve_artifact("old", MODELYARD_ALLOW_PICKLE="false")

    code = server.finish()

    text = server.termination_log.read_text()
    assert (code != 0, "UnsafeArtifact" in text, "allowPickle: true" in text) == (True, True, True)
