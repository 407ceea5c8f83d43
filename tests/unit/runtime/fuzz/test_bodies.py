"""Every HTTP route that takes a body, under fuzz: an answer or the client's own error, and no memory that stays."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard_runtime.formats import TensorSpec
from unit.runtime.fuzz.damage import damaged, is_error, troublesome
from unit.runtime.support import NAMES, Api, FakeModel

ROW = [1.5, -2, 0, 4e3]
TOKEN = {"authorization": "Bearer s3cret"}
LIMIT = 300_000
MODEL = FakeModel(features=4, feature_names=NAMES, inputs=(TensorSpec("features", "FP64", (-1, 4)),))


def binary_request() -> tuple[bytes, int]:
    """Return a body as tritonclient writes it, and the length of its JSON."""
    tensor = triton.InferInput("features", [2, 4], "FP64")
    tensor.set_data_from_numpy(np.array([ROW, ROW], dtype=np.float64))
    body, length = triton.InferenceServerClient.generate_request_body([tensor], request_id="1", timeout=5000000)
    return bytes(body), int(length)


BINARY, HEADER_LENGTH = binary_request()
GOOD: dict[str, tuple[str, bytes]] = {
    "/predict": ("features", json.dumps({"model_name": "m", "features": ROW, "use_cache": True}).encode()),
    "/predict/batch": ("instances", json.dumps({"instances": [ROW, dict(zip(NAMES, ROW, strict=True))]}).encode()),
    "/v1/models/m:predict": ("instances", json.dumps({"instances": [ROW, ROW]}).encode()),
    "/v2/models/m/infer": (
        "inputs",
        json.dumps(
            {
                "id": "1",
                "inputs": [{"name": "features", "shape": [1, 4], "datatype": "FP64", "data": ROW, "parameters": {}}],
                "outputs": [{"name": "prediction", "parameters": {"binary_data": True}}],
                "parameters": {"timeout": 5000000},
            }
        ).encode(),
    ),
    "/v2/repository/index": ("ready", b'{"ready": true}'),
    "/models": ("uri", b'{"name": "n", "uri": "file:///nowhere/model.json", "version": "1", "activate": false}'),
}
REFUSALS = {400, 404, 413, 415, 422, 501}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    token = tmp_path_factory.mktemp("admin") / "token"
    token.write_text("s3cret")
    made = Api({"m": MODEL}, max_body_bytes=LIMIT, admin_token_file=Path(token))
    yield made
    made.app.close()


def check(response: Any) -> None:
    if response.status_code == 200:
        return
    assert response.status_code in REFUSALS, response.text[:300]
    assert is_error(response.json()), response.text[:300]
    assert len(response.content) < 5000


@pytest.mark.parametrize("path", GOOD)
def test_what_is_damaged_below_is_good(api: Api, path: str) -> None:
    response = api.send("POST", path, content=GOOD[path][1], headers=TOKEN)

    assert response.status_code == (422 if path == "/models" else 200), response.text


@pytest.mark.parametrize("path", GOOD)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_a_damaged_body_gets_an_answer_or_its_own_error(api: Api, path: str, data: st.DataObject) -> None:
    body = data.draw(damaged(GOOD[path][1]))

    check(api.send("POST", path, content=body, headers=TOKEN))


@settings(max_examples=200, deadline=None)
@given(body=damaged(BINARY), length=st.just(HEADER_LENGTH) | st.integers(0, len(BINARY) + 9))
def test_a_damaged_binary_body_gets_an_answer_or_its_own_error(api: Api, body: bytes, length: int) -> None:
    headers = {"inference-header-content-length": str(length)}

    check(api.send("POST", "/v2/models/m/infer", content=body, headers=headers))


@settings(max_examples=100, deadline=None)
@given(
    shape=st.lists(st.sampled_from([0, 1, 2, 4, 2**31, 2**47, 2**48, 2**63, 2**64, -1]), max_size=33),
    datatype=st.sampled_from(["FP64", "BYTES", "BOOL", "INT8"]),
    data=st.sampled_from([[], [1], [[]], [[1, 2, 3, 4]]]),
)
def test_any_shape_gets_an_answer_or_its_own_error(api: Api, shape: list[int], datatype: str, data: Any) -> None:
    tensor = {"name": "features", "shape": shape, "datatype": datatype}
    bodies = [
        {"inputs": [{**tensor, "data": data}]},
        {"inputs": [{**tensor, "parameters": {"binary_data_size": 0}}]},
    ]

    for body in bodies:
        content = json.dumps(body).encode()
        headers = {"inference-header-content-length": str(len(content))}
        check(api.send("POST", "/v2/models/m/infer", content=content, headers=headers))


@pytest.mark.parametrize("path", GOOD)
def test_troublesome_bodies_get_their_own_error_and_leave_no_memory(api: Api, path: str) -> None:
    """Twice the same: what the second round adds would be added by each."""
    bodies = troublesome(GOOD[path][0], size=5000)
    bodies += [gzip.compress(body) for body in bodies[:3]]

    async def send_all() -> None:
        for body in bodies:
            headers = {**TOKEN, "content-encoding": "gzip"} if body[:2] == b"\x1f\x8b" else TOKEN
            check(await api.request("POST", path, content=body, headers=headers))

    def added_up() -> int:
        api.app.metrics.render("")  # requests are noted, up to a number, until somebody asks for their count
        api.app.statistics.all()
        return held()

    asyncio.run(send_all())
    tracemalloc.start(12)
    try:
        asyncio.run(send_all())
        before = added_up()
        for _ in range(4):
            asyncio.run(send_all())
        after = added_up()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert after - before < 16 * 4 * len(bodies), "more than 16 bytes a request stay"
    assert peak < 100 * LIMIT


def held() -> int:
    """Return the bytes that the runtime holds, without those of the client in this process."""
    gc.collect()
    ours = tracemalloc.Filter(True, "*/modelyard_runtime/*", all_frames=True)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([ours]).traces)


@settings(max_examples=60, deadline=None)
@given(
    path=st.text(st.characters(codec="utf-8"), max_size=30), method=st.sampled_from(["GET", "POST", "DELETE", "PUT"])
)
def test_any_path_gets_an_answer_or_its_own_error(api: Api, path: str, method: str) -> None:
    for prefix in ("/", "/models/", "/v2/models/", "/v1/models/", "/v2/models/m/versions/"):
        response = api.send(method, prefix + quote(path, safe="/:@"), headers=TOKEN if method == "POST" else {})

        assert response.status_code < 500 or response.status_code == 501
        if response.status_code >= 400:
            assert is_error(response.json())


@pytest.mark.parametrize("path", GOOD)
def test_a_client_that_goes_before_its_body_is_no_failure_of_the_server(
    api: Api, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A log of tracebacks for each of them would hide the real ones."""
    headers = [(name.encode(), value.encode()) for name, value in TOKEN.items()]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    parts = iter([{"type": "http.request", "body": b'{"', "more_body": True}])

    async def receive() -> Any:
        return next(parts, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        assert message.get("status", 499) == 499

    asyncio.run(api.app({**scope, "headers": headers, "http_version": "1.1", "scheme": "http"}, receive, send))

    assert caplog.records == []
