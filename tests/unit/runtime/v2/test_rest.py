"""OIP v2 over HTTP, in bytes: what other servers get wrong, and limits."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from modelyard_runtime.formats import TensorSpec
from unit.runtime.support import Api, FakeModel

INFER = "/v2/models/m/infer"
ROW = {"name": "features", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    api = Api({"m": FakeModel(feature_names=("a", "b"))}, max_body_bytes=100_000)
    yield api
    api.app.executor.close()


def infer(api: Api, *inputs: Any, path: str = INFER, **fields: Any) -> httpx.Response:
    return api.predict({"inputs": list(inputs) or [ROW], **fields}, path)


def binary(api: Api, head: Any, raw: bytes, length: str | None = None) -> httpx.Response:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": str(len(text)) if length is None else length}
    return api.send("POST", INFER, content=text + raw, headers=headers)


def test_a_json_request(api: Api) -> None:
    response = infer(api, id="x")

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "model_name": "m",
        "model_version": "1",
        "id": "x",
        "outputs": [{"name": "prediction", "shape": [1], "datatype": "FP64", "data": [3.0]}],
    }


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "application/octet-stream", "text/x", ""])
def test_the_content_type_decides_nothing(api: Api, content_type: str) -> None:
    response = api.send(
        "POST", INFER, content=json.dumps({"inputs": [ROW]}).encode(), headers={"content-type": content_type}
    )

    assert response.status_code == 200


@pytest.mark.parametrize("data", [[[1, 2], [3, 4]], [1, 2, 3, 4]])
def test_data_is_nested_or_flat(api: Api, data: Any) -> None:
    response = infer(api, {**ROW, "shape": [2, 2], "data": data})

    assert response.json()["outputs"][0]["data"] == [3.0, 7.0]


def test_a_very_large_body_is_answered_too(serve: Callable[..., Api]) -> None:
    rows = 80_000

    response = infer(serve({"m": FakeModel()}), {**ROW, "shape": [rows, 2], "data": [1, 2] * rows})

    assert response.json()["outputs"][0]["data"] == [3.0] * rows


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_named_columns(api: Api, shape: list[int]) -> None:
    columns = [{"name": name, "shape": shape, "datatype": "INT64", "data": [1, 2]} for name in ("b", "a")]

    assert infer(api, *columns).json()["outputs"][0]["data"] == [2.0, 4.0]


@pytest.mark.parametrize("name", ["input-0", "input__0", "predict"])
def test_the_names_that_other_servers_clients_use(api: Api, name: str) -> None:
    assert infer(api, {**ROW, "name": name}).status_code == 200


def test_text_labels_are_bytes(serve: Callable[..., Api]) -> None:
    api = serve(
        {"m": FakeModel(lambda rows: np.array(["ja", "né"]), outputs=(TensorSpec("prediction", "BYTES", (-1,)),))}
    )
    tensor = {**ROW, "shape": [2, 2], "data": [1, 2, 3, 4]}

    plain = infer(api, tensor).json()["outputs"][0]
    raw = infer(api, tensor, parameters={"binary_data_output": True})

    assert plain == {"name": "prediction", "shape": [2], "datatype": "BYTES", "data": ["ja", "né"]}
    length = int(raw.headers["inference-header-content-length"])
    assert raw.content[length:] == struct.pack("<I2sI3s", 2, b"ja", 3, "né".encode())
    assert json.loads(raw.content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 13}


def test_what_an_output_asks_overrides_the_requests_default(api: Api) -> None:
    response = infer(
        api,
        outputs=[{"name": "prediction", "parameters": {"binary_data": False}}],
        parameters={"binary_data_output": True},
    )

    assert response.json()["outputs"][0]["data"] == [3.0]


def test_text_inputs_reach_models_that_take_text(serve: Callable[..., Api]) -> None:
    class Texts(FakeModel):
        text_features = frozenset({0})

    model = Texts(lambda rows: np.array([f"{a}:{b}" for a, b in rows]), feature_names=("a", "b"))
    model.outputs = (TensorSpec("prediction", "BYTES", (-1,)),)
    api = serve({"m": model})
    columns = [
        {"name": "a", "shape": [1], "datatype": "BYTES", "data": ["é"]},
        {"name": "b", "shape": [1], "datatype": "FP64", "data": [2]},
    ]

    assert infer(api, *columns).json()["outputs"][0]["data"] == ["é:2.0"]


def test_models_of_several_inputs(serve: Callable[..., Api]) -> None:
    class Pair(FakeModel):
        def infer(self, tensors: Any, wanted: Any = ()) -> Any:
            return {"prediction": tensors["x"].sum(axis=1) + tensors["y"]}

    api = serve({"m": Pair(inputs=(TensorSpec("x", "FP32", (-1, 2)), TensorSpec("y", "INT64", (-1,))))})
    x = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}
    y = {"name": "y", "shape": [1], "datatype": "INT32", "data": [4]}

    assert infer(api, x, y).json()["outputs"][0]["data"] == [7.0]
    assert infer(api, x).json() == {"error": "input y is missing"}
    assert infer(api, x, {**y, "datatype": "FP64"}).json() == {"error": "input y is FP64, and the model takes INT64"}


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ({"datatype": "FLOAT"}, "datatype of input features is 'FLOAT'"),
        ({"datatype": None}, "datatype of input features is None"),
        ({"shape": [1, 3]}, "has 2 elements, and its shape [1, 3] has 3"),
        ({"shape": [1, -2]}, "shape of input features"),
        ({"shape": [True, 2]}, "shape of input features"),
        ({"shape": "12"}, "shape of input features"),
        ({"shape": [2**47, 2**47]}, "has 2 elements"),
        ({"shape": [0, 2**30, 2**30], "data": []}, "is empty"),
        ({"data": ["1", "2"]}, "needs to be numbers"),
        ({"data": [None, 2]}, "needs to be numbers"),
        ({"data": [[1], [2]]}, "has the form [2, 1]"),
        ({"data": [[[1, 2]]]}, "nested in another form"),
        ({"data": [[1, 2], 3]}, "nested in another form"),
        ({"data": 5}, "needs to be a list"),
        ({"datatype": "INT8", "data": [1, 300]}, "INT8 can't hold"),
        ({"datatype": "UINT8", "data": [1, -1]}, "UINT8 can hold"),
        ({"datatype": "INT32", "data": [1, 1.5]}, "INT32 can hold"),
        ({"datatype": "FP16", "data": [1, 1e6]}, "FP16 can't hold"),
        ({"datatype": "FP64", "data": [1, 10**400]}, "valid JSON"),
        ({"datatype": "BOOL", "data": [True, 2]}, "needs to be true and false"),
        ({"datatype": "BYTES", "data": ["a", 1]}, "needs to be strings"),
        ({"datatype": "BF16"}, "BF16"),
        ({"name": ""}, "inputs[0] needs"),
        ({"name": "z"}, "lacks a, b and has the unknown z"),
        ({"parameters": []}, "need to be an object"),
    ],
)
def test_what_is_wrong_with_an_input_is_told(api: Api, tensor: Any, message: str) -> None:
    response = infer(api, {**ROW, **tensor})

    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"inputs": []}', b'{"inputs": {}}', b'{"inputs": [1]}', b'{"inputs": [NaN]}'],
)
def test_a_body_that_is_no_request_is_a_400_with_an_error(api: Api, body: bytes) -> None:
    response = api.predict(body, INFER)

    assert response.status_code == 400
    assert response.json()["error"]


@pytest.mark.parametrize(
    "fields",
    [
        {"id": 5},
        {"outputs": [{"name": "none"}]},
        {"outputs": 5},
        {"outputs": [{}]},
        {"parameters": {"binary_data_output": 1}},
        {"parameters": {"timeout": "1"}},
        {"outputs": [{"name": "prediction", "parameters": {"binary_data": "yes"}}]},
    ],
)
def test_wrong_fields_are_a_400(api: Api, fields: Any) -> None:
    assert infer(api, **fields).status_code == 400


def test_outputs_that_json_does_not_have_are_an_error_not_null(serve: Callable[..., Api]) -> None:
    api = serve({"m": FakeModel(lambda rows: np.array([np.nan]))})

    plain = infer(api)

    assert plain.status_code == 400
    assert "not a finite number" in plain.json()["error"]


def test_a_model_never_answers_with_anothers_result(serve: Callable[..., Api]) -> None:
    api = serve({"m": FakeModel(lambda rows: rows[:, 0]), "n": FakeModel(lambda rows: rows[:, 1])})

    answers = [infer(api, path=f"/v2/models/{name}/infer").json()["outputs"][0]["data"] for name in ("m", "n")]

    assert answers == [[1.0], [2.0]]


def test_unknown_names_add_no_metrics(api: Api) -> None:
    for index in range(5):
        assert infer(api, path=f"/v2/models/made-up-{index}/infer").status_code == 404

    assert "made-up" not in api.send("GET", "/metrics").text


def test_the_metrics_name_the_protocol(api: Api) -> None:
    infer(api)

    assert (
        'modelyard_requests_total{code="200",model="m",protocol="v2",version="1"}' in api.send("GET", "/metrics").text
    )


def test_readiness_follows_models_and_the_drain(serve: Callable[..., Api]) -> None:
    api = serve({"m": FakeModel()})
    empty = serve({})
    empty.app.registry.expect("m")

    assert api.send("GET", "/v2/health/ready").json() == {"live": True, "ready": True}
    for path in ("/v2/health/ready", "/v2/models/m/ready", "/v2/models/m"):
        assert empty.send("GET", path).status_code == 503
    assert empty.send("GET", "/v2/health/live").json() == {"live": True, "ready": False}
    assert empty.predict({"inputs": [ROW]}, INFER).headers["retry-after"] == "1"
    assert empty.send("POST", "/v2/repository/index").json() == [{"name": "m", "state": "LOADING", "reason": ""}]
    assert empty.send("POST", "/v2/repository/index", content=b'{"ready": true}').json() == []
    assert empty.send("POST", "/v2/repository/index", content=b"{").status_code == 400

    api.drain.on_terminate()

    assert api.send("GET", "/v2/health/ready").status_code == 503
    assert infer(api).headers["connection"] == "close"


def test_a_wrong_method_is_a_405(api: Api) -> None:
    response = api.send("GET", INFER)

    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert "use POST" in response.json()["error"]


HEAD = {"inputs": [{**{k: v for k, v in ROW.items() if k != "data"}, "parameters": {"binary_data_size": 16}}]}
RAW = struct.pack("<2d", 1, 2)


def test_a_binary_request(api: Api) -> None:
    assert binary(api, HEAD, RAW).json()["outputs"][0]["data"] == [3.0]


@pytest.mark.parametrize(
    ("head", "raw", "length"),
    [
        (HEAD, RAW[:-1], None),
        (HEAD, RAW + b"x", None),
        (HEAD, RAW, "100000"),
        (HEAD, RAW, "-1"),
        (HEAD, RAW, "x"),
        (HEAD, RAW, "9" * 30),
        (HEAD, RAW, "10"),
        (b"", RAW[:-1], "0"),
        (b"", b"", "0"),
        ({"inputs": [ROW]}, RAW, None),
    ],
)
def test_lengths_that_do_not_fit_are_a_400(api: Api, head: Any, raw: bytes, length: str | None) -> None:
    response = binary(api, head, raw, length)

    assert response.status_code == 400
    assert response.json()["error"]


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_a_decompression_bomb_is_refused(api: Api, name: str) -> None:
    zeros = bytes(50_000_000)
    bomb = gzip.compress(zeros) if name == "gzip" else zlib.compress(zeros)

    response = api.send("POST", INFER, content=bomb, headers={"content-encoding": name})

    assert len(bomb) < 100_000
    assert response.status_code == 413
    assert "inflates to more than 100000 bytes" in response.json()["error"]


@pytest.mark.parametrize(
    ("encoding", "change"),
    [
        ("gzip", gzip.compress),
        ("gzip", lambda body: gzip.compress(body[:20]) + gzip.compress(body[20:])),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body)[2:-4]),
        ("identity", lambda body: body),
    ],
)
def test_compressed_bodies(api: Api, encoding: str, change: Callable[[bytes], bytes]) -> None:
    body = change(json.dumps({"inputs": [ROW]}).encode())

    assert api.send("POST", INFER, content=body, headers={"content-encoding": encoding}).status_code == 200


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", b"nonsense", 400),
        ("gzip", gzip.compress(b"{}" * 50)[:-9], 400),
        ("deflate", zlib.compress(b"{}") + b"more", 400),
        ("br", b"x", 415),
        ("gzip, gzip", b"x", 415),
    ],
)
def test_what_does_not_inflate_is_the_clients_error(api: Api, encoding: str, body: bytes, status: int) -> None:
    response = api.send("POST", INFER, content=body, headers={"content-encoding": encoding})

    assert response.status_code == status
    assert response.json()["error"]


def test_a_slow_model_meets_the_clients_timeout(serve: Callable[..., Api]) -> None:
    import time

    def slow(rows: Any) -> Any:
        time.sleep(0.5)
        return rows[:, 0]

    response = infer(serve({"m": FakeModel(slow, inline=False)}), parameters={"timeout": 20_000})

    assert response.status_code == 504
