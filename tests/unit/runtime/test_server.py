"""The real server in a process of its own: start, limits on the wire, and what it leaves behind when it fails."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from unit.runtime.support import LOGISTIC, SUM, Server, start_server

MEGABYTE = bytes(1024 * 1024)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that leave it as it is."""
    with start_server(tmp_path_factory.mktemp("server"), LOGISTIC) as started:
        started.wait_for("/health/ready", 200)
        yield started


def exchange(server: Server, request: bytes) -> bytes:
    """Send raw bytes and return all that comes back until the server closes."""
    with socket.create_connection((server.host, server.port), timeout=30) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def test_a_model_is_served_from_its_uri(server: Server) -> None:
    row = {"age": 1, "income": 2, "tenure": 3, "calls": 4}

    body = httpx.post(f"{server.url}/predict", json={"model_name": "churn", "features": row}).json()

    model = httpx.get(f"{server.url}/models/churn").json()
    assert (body["prediction"], body["model_version"]) == ("leave", model["version"])
    assert (model["format"], model["feature_names"]) == ("logistic", ["age", "income", "tenure", "calls"])
    assert model["metadata"] == {"performance": {"accuracy": "0.93"}}
    assert "modelyard_model_load_seconds{" in httpx.get(f"{server.url}/metrics").text


def test_100_megabytes_are_refused_with_a_reason(server: Server) -> None:
    response = httpx.post(f"{server.url}/predict", content=MEGABYTE * 100, timeout=60)

    assert response.status_code == 413
    assert response.json() == {
        "error": "the body is larger than 33554432 bytes; send fewer rows a request, or raise maxBodyBytes"
    }


def test_100_megabytes_in_chunks_are_refused_with_a_reason(server: Server) -> None:
    response = httpx.post(f"{server.url}/predict", content=iter([MEGABYTE] * 100), timeout=60)

    assert "content-length" not in response.request.headers
    assert response.status_code == 413


def test_a_length_over_the_limit_is_refused_without_the_body(server: Server) -> None:
    answer = exchange(server, b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nconnection: close\r\n" in answer


def test_the_server_goes_on_after_refusing(server: Server) -> None:
    exchange(server, b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n")

    response = httpx.post(f"{server.url}/predict", json={"features": [1, 2, 3, 4]})

    assert response.status_code == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_400_in_json(request_bytes: bytes, server: Server) -> None:
    head, _, body = exchange(server, request_bytes).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body) == {"error": "the request is not valid HTTP/1.1; check the client"}


def test_a_body_that_never_comes_is_a_408(tmp_path: Path) -> None:
    with start_server(tmp_path, SUM, MODELYARD_TIMEOUT="0.1") as server:
        server.wait_for("/health/ready", 200)

        answer = exchange(server, b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{"feat')

        assert answer.startswith(b"HTTP/1.1 408 ")


def test_one_line_says_what_is_served_and_where(tmp_path: Path) -> None:
    with start_server(tmp_path, SUM) as server:
        server.wait_for("/health/ready", 200)
        server.process.send_signal(signal.SIGINT)
        _, log = server.process.communicate(timeout=60)

        assert len(log.splitlines()) == 1
        assert "serving churn (linear, version " in log
        assert f"on {server.url}/predict" in log


def test_health_is_answered_while_the_model_loads(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    os.mkfifo(tmp_path / "volume" / "artifact.json")  # reading it waits until the test writes
    with start_server(tmp_path) as server:
        server.wait_for("/health/live", 200)

        statuses = [server.status(path) for path in ("/health/ready", "/health/serving")]
        refused = httpx.post(f"{server.url}/predict", json={"features": [1]})

        assert statuses == [503, 503]
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


def test_sigterm_while_the_model_loads_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    os.mkfifo(tmp_path / "volume" / "artifact.json")
    with start_server(tmp_path, MODELYARD_DRAIN_DELAY="1000") as server:
        server.wait_for("/health/live", 200)

        server.process.terminate()

        assert server.finish() == 0


def test_a_model_that_does_not_load_leaves_its_reason(tmp_path: Path) -> None:
    with start_server(tmp_path, {"type": "linear", "weights": ["x"]}) as server:
        _, log = server.process.communicate(timeout=60)

        failure = json.loads(server.termination_log.read_text())
        assert server.process.returncode == 1
        assert failure == {"reason": "LoadFailed", "message": "weights of model.json needs to be made of numbers only"}
        assert failure["message"] in log
        assert "Traceback" not in log


@pytest.mark.parametrize(
    ("env", "reason", "advice"),
    [
        ({"MODELYARD_MODEL_DIR": "/nothing"}, "ArtifactNotFound", "fetch the artifact first"),
        ({"MODELYARD_MODEL_FORMAT": "sklearn"}, "UnknownFormat", "needs *.skops"),
        ({"MODELYARD_TIMEOUT": "soon"}, "LoadFailed", "MODELYARD_TIMEOUT is 'soon'"),
        ({"MODELYARD_HOST": "203.0.113.1"}, "LoadFailed", "can't listen on 203.0.113.1"),
        ({"MODELYARD_HOST": "no host"}, "LoadFailed", "can't listen on no host"),
    ],
)
def test_a_server_that_can_not_start_leaves_its_reason(
    env: dict[str, str], reason: str, advice: str, tmp_path: Path
) -> None:
    with start_server(tmp_path, SUM, **env) as server:
        _, log = server.process.communicate(timeout=60)

        failure = json.loads(server.termination_log.read_text())
        assert (server.process.returncode, failure["reason"]) == (1, reason)
        assert advice in failure["message"]
        assert "Traceback" not in log


def test_bodies_that_are_held_together_have_a_bound(tmp_path: Path) -> None:
    """Four of the largest size; what comes in one piece is small, and goes on being answered."""
    limit = 400_000
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % limit
    with start_server(tmp_path, SUM, MODELYARD_MAX_BODY_BYTES=str(limit)) as server, contextlib.ExitStack() as stack:
        server.wait_for("/health/ready", 200)

        def begin() -> socket.socket:
            client = stack.enter_context(socket.create_connection((server.host, server.port), timeout=30))
            client.sendall(head + b" " * (limit - 1))
            return client

        clients = [begin() for _ in range(5)]
        refused: list[socket.socket] = []
        while not refused:
            refused, _, _ = select.select(clients, [], [], 30)
        answer = b""
        while not answer.endswith(b"}"):
            answer += refused[0].recv(65536)
        small = httpx.post(f"{server.url}/predict", json={"features": [1, 2]})
        for client in clients:
            if client is not refused[0]:
                client.sendall(b" ")
        others = [client.recv(65536)[:12] for client in clients if client is not refused[0]]

    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"of other requests' bodies" in answer
    assert b"retry-after: 1" in answer
    assert small.json()["prediction"] == 3.0
    assert others == [b"HTTP/1.1 400"] * 4  # spaces are no JSON
