"""The clients of the mixed load: each call asks once and checks its answer; AssertionError says what was wrong.

The model has two versions, which are swapped all the time: `one` gives the sum of a row, `two` twice that.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException
from unit.runtime.support import Server

FACTORS = {"one": 1.0, "two": 2.0}
TOKEN = "s3cret"
MAX_BODY_BYTES = 2 * 1024 * 1024
_INFER = "/v2/models/churn/infer"
_V1 = "/v1/models/churn:predict"
_BOMB = gzip.compress(bytes(4 * MAX_BODY_BYTES))
_SUM = [1.0, 2.0]
_ERRORS: list[tuple[str, str, dict[str, Any], int]] = [
    ("POST", "/predict", {"content": b"{"}, 400),
    ("POST", "/predict", {"content": b'{"features": [1, NaN]}'}, 400),
    ("POST", "/predict", {"content": b"[" * 5000}, 400),
    ("POST", "/predict", {"json": {"model_name": "churn", "features": [1]}}, 422),
    ("POST", "/predict", {"json": {"model_name": "churn", "features": [1, "x"]}}, 422),
    ("POST", "/predict", {"json": {"model_name": "none", "features": _SUM}}, 404),
    ("POST", "/predict", {"content": b"x", "headers": {"content-encoding": "gzip"}}, 400),
    ("POST", "/predict", {"content": b"x", "headers": {"content-encoding": "br"}}, 415),
    ("POST", "/predict", {"content": b"x", "headers": {"x-request-timeout-ms": "soon"}}, 400),
    ("POST", "/predict", {"content": bytes(MAX_BODY_BYTES + 1)}, 413),
    ("GET", "/predict", {}, 405),
    ("GET", "/nothing", {}, 404),
    ("POST", _V1, {"json": {"instances": [[1, None]]}}, 400),
    ("POST", "/v1/models/none:predict", {"json": {"instances": [_SUM]}}, 404),
    ("POST", _V1, {"content": b"no gzip", "headers": {"content-encoding": "gzip"}}, 400),
    ("POST", _V1, {"content": _BOMB, "headers": {"content-encoding": "gzip"}}, 413),
    ("POST", _INFER, {"json": {"inputs": []}}, 400),
    ("POST", _INFER, {"content": b"{}\0", "headers": {"inference-header-content-length": "9"}}, 400),
    ("POST", "/v2/systemsharedmemory/region/x/register", {}, 501),
    ("POST", "/models", {"content": b"{}"}, 403),
    ("POST", "/models", {"content": b"{}", "headers": {"authorization": f"Bearer {TOKEN}"}}, 422),
]


@dataclass
class Clients:
    """What the clients share: the server, connections to it, and the load's own random numbers."""

    server: Server
    http: httpx.AsyncClient
    rpc: triton_aio.InferenceServerClient
    uris: dict[str, str]
    """The artifact of each version."""
    random: random.Random

    def kinds(self) -> dict[str, tuple[Callable[[], Awaitable[None]], int, float]]:
        """Return the calls by name, each with how many do it at once and how many seconds apart."""
        return {
            "seed": (self.seed, 4, 0),
            "cached": (self.cached, 2, 0),
            "batch": (self.batch, 1, 0),
            "v2 JSON": (self.v2_json, 2, 0),
            "v2 binary": (self.v2_binary, 2, 0),
            "v1": (self.v1, 2, 0),
            "grpc": (self.grpc, 4, 0),
            "grpc anew": (self.grpc_anew, 1, 0.5),
            "grpc error": (self.grpc_error, 1, 0.01),
            "error": (self.error, 2, 0.01),
            "large": (self.large, 1, 0.5),
            "slow": (self.slow, 4, 0),
            "aborted": (self.aborted, 2, 0.02),
            "scrape": (self.scrape, 1, 1),
            "swap": (self.swap, 1, 2),
            "load": (self.load, 1, 3),
        }

    def rows(self, count: int, *, distinct: int = 100_000) -> list[list[float]]:
        return [[float(self.random.randrange(distinct)), 1.0] for _ in range(count)]

    async def post(self, path: str, **kwargs: Any) -> httpx.Response:
        response = await self.http.post(path, **kwargs)
        assert response.status_code == 200, f"{path}: {response.status_code} {response.text[:300]}"
        return response

    async def seed(self) -> None:
        (row,) = self.rows(1)
        answer = (await self.post("/predict", json={"model_name": "churn", "features": row})).json()
        check([row], [answer["prediction"]], answer["model_version"])

    async def cached(self) -> None:
        (row,) = self.rows(1, distinct=5000)
        answer = (await self.post("/predict", json={"model_name": "churn", "features": row, "use_cache": True})).json()
        check([row], [answer["prediction"]], answer["model_version"])

    async def batch(self) -> None:
        rows = self.rows(50)
        answer = (await self.post("/predict/batch", json={"model_name": "churn", "instances": rows})).json()
        check(rows, answer["predictions"], answer["model_version"])

    async def v2_json(self) -> None:
        rows = self.rows(2)
        tensor = {"name": "features", "datatype": "FP64", "shape": [2, 2], "data": rows}
        answer = (await self.post(_INFER, json={"inputs": [tensor]})).json()
        check(rows, answer["outputs"][0]["data"], answer["model_version"])

    async def v2_binary(self) -> None:
        rows = self.rows(3)
        tensor = triton_http.InferInput("features", [3, 2], "FP64")
        tensor.set_data_from_numpy(np.array(rows))
        body, length = triton_http.InferenceServerClient.generate_request_body([tensor])
        response = await self.post(_INFER, content=body, headers={"inference-header-content-length": str(length)})
        result = triton_http.InferenceServerClient.parse_response_body(
            response.content, header_length=int(response.headers.get("inference-header-content-length", 0)) or None
        )
        check(rows, result.as_numpy("prediction").tolist(), result.get_response()["model_version"])

    async def v1(self) -> None:
        rows = self.rows(20)
        body = gzip.compress(json.dumps({"instances": rows}).encode(), 1)
        answer = (await self.post(_V1, content=body, headers={"content-encoding": "gzip"})).json()
        check(rows, answer["predictions"], None)

    async def grpc(self) -> None:
        await call(self.rpc, self.rows(2))

    async def grpc_anew(self) -> None:
        async with triton_aio.InferenceServerClient(f"{self.server.host}:{self.server.grpc_port}") as client:
            await call(client, self.rows(1))

    async def grpc_error(self) -> None:
        name, row = self.random.choice([("none", [1.0, 2.0]), ("churn", [1.0]), ("churn", [float("inf")] * 3)])
        try:
            await self.rpc.infer(name, [tensor_of([row])], client_timeout=60)
        except InferenceServerException as exc:
            status = exc.status()
        else:
            status = "OK"
        assert status == ("StatusCode.NOT_FOUND" if name == "none" else "StatusCode.INVALID_ARGUMENT"), status

    async def error(self) -> None:
        method, path, kwargs, status = self.random.choice(_ERRORS)
        response = await self.http.request(method, path, **kwargs)
        assert response.status_code == status, f"{method} {path}: {response.status_code}, not {status}"
        assert response.json()["error"]

    async def large(self) -> None:
        rows = self.rows(20_000)
        answer = (await self.post("/predict/batch", json={"model_name": "churn", "instances": rows})).json()
        check(rows, answer["predictions"], answer["model_version"])

    async def slow(self) -> None:
        """Send and read in small pieces, on a connection of its own."""
        rows = self.rows(200)
        body = json.dumps({"model_name": "churn", "instances": rows}).encode()
        reader, writer = await asyncio.open_connection(self.server.host, self.server.port)
        try:
            data = b"POST /predict/batch HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
            data %= (len(body), body)
            size = len(data) // 10 + 1
            for start in range(0, len(data), size):
                writer.write(data[start : start + size])
                await asyncio.sleep(0.05)
            text = b""
            while piece := await reader.read(512):
                text += piece
                await asyncio.sleep(0.01)
        finally:
            writer.close()
            await writer.wait_closed()
        head, _, text = text.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), f"a slow client: {head!r}"
        answer = json.loads(text)
        check(rows, answer["predictions"], answer["model_version"])

    async def aborted(self) -> None:
        """Send a request or a part of it, and reset the connection without reading the answer."""
        path, field = self.random.choice([("/predict/batch", "instances"), (_V1, "instances"), ("/models", "name")])
        body = json.dumps({field: self.rows(500)}).encode()
        data = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body)
        _, writer = await asyncio.open_connection(self.server.host, self.server.port)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.write(data[: self.random.randrange(1, len(data) + 1)])
        await asyncio.sleep(self.random.choice([0, 0.002, 0.02]))
        writer.transport.abort()

    async def scrape(self) -> None:
        for accept in ("text/plain", "application/openmetrics-text", "application/json"):
            response = await self.http.get("/metrics", headers={"accept": accept})
            assert response.status_code == 200
        for path in ("/health", "/health/ready", "/models", "/models/churn", "/v2/models/churn/stats", "/v2"):
            assert (await self.http.get(path)).status_code == 200, path

    async def swap(self) -> None:
        """Make the other version answer."""
        active = (await self.http.get("/models/churn")).json()["version"]
        other = "two" if active == "one" else "one"
        await self.post(f"/models/churn/versions/{other}/activate", headers={"authorization": f"Bearer {TOKEN}"})

    async def load(self) -> None:
        """Load a version anew, and another model, which is unloaded again."""
        headers = {"authorization": f"Bearer {TOKEN}"}
        version = self.random.choice(list(FACTORS))
        for name in ("churn", "other"):
            new = {"name": name, "version": version, "uri": self.uris[version]}
            response = await self.http.post("/models", json=new, headers=headers)
            assert response.status_code == 201, response.text
        assert (await self.http.delete("/models/other", headers=headers)).status_code == 200


def tensor_of(rows: list[list[float]]) -> Any:
    values = np.array(rows)
    tensor = triton_grpc.InferInput("features", list(values.shape), "FP64")
    tensor.set_data_from_numpy(values)
    return tensor


async def call(client: triton_aio.InferenceServerClient, rows: list[list[float]]) -> None:
    result = await client.infer("churn", [tensor_of(rows)], client_timeout=60)
    check(rows, result.as_numpy("prediction").tolist(), result.get_response().model_version)


def check(rows: list[list[float]], predictions: list[float], version: str | None) -> None:
    """Compare with what `version` says of the rows; where a protocol tells no version, either may have answered."""
    expected = {name: [factor * sum(row) for row in rows] for name, factor in FACTORS.items()}
    if version is not None:
        assert predictions == expected[version], f"version {version} answered {predictions[:5]} to {rows[:5]}"
    else:
        assert predictions in expected.values(), f"{predictions[:5]} to {rows[:5]}"
