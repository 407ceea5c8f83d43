"""Limits of a connection: heads that are slow or huge, its age, and the ids that its answers carry."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from modelyard_runtime.transport.connection import Connection
from modelyard_runtime.transport.limits import ConnectionLimits
from unit.runtime.support import SUM, FakeTransport, Server, start_server
from uvicorn.server import ServerState

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_server(tmp_path_factory.mktemp("server"), SUM) as started:
        started.wait_for("/health/ready", 200)
        yield started


def exchange(server: Server, request: bytes) -> tuple[bytes, Any]:
    """Send raw bytes; return the status line, and the body as JSON, once the server closes."""
    with socket.create_connection((server.host, server.port), timeout=30) as connection:
        connection.sendall(request)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0], json.loads(body)


async def never(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.Event().wait()


def connect(app: Any = never, **limits: Any) -> tuple[Connection, FakeTransport]:
    """Return a connection; its application never answers unless another is given."""
    config = uvicorn.Config(app, interface="asgi3", ws="none", lifespan="off", log_config=None)
    connection = Connection(config=config, server_state=ServerState(), app_state={}, limits=ConnectionLimits(**limits))
    transport = FakeTransport()
    connection.connection_made(transport)
    return connection, transport


def test_a_head_that_trickles_is_a_408() -> None:
    async def scenario() -> tuple[bytes, bytes]:
        connection, transport = connect(head_seconds=10.0)
        start = connection.loop.time()
        connection.data_received(b"GET / HTTP/1.1\r\nHost")
        connection.check(start + 9.0)
        before = transport.written
        connection.data_received(b": x\r\n")
        connection.check(start + 11.0)
        return before, transport.written

    before, after = asyncio.run(scenario())

    assert before == b""
    assert after.startswith(b"HTTP/1.1 408 ")
    assert b"within 10 s" in after


def test_a_request_that_is_being_answered_is_left_alone() -> None:
    async def scenario() -> bool:
        connection, transport = connect()
        connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT")
        connection.check(connection.loop.time() + 1000.0)
        await asyncio.sleep(0)
        closed = transport.closed
        connection.connection_lost(None)
        tasks = list(connection.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return closed

    assert asyncio.run(scenario()) is False


def test_a_connection_that_sends_nothing_is_closed() -> None:
    async def scenario() -> list[bool]:
        connection, transport = connect(idle_seconds=75.0)
        now = connection.loop.time()
        states = []
        for later in (74.0, 76.0):
            connection.check(now + later)
            states.append(transport.closed)
        return states

    assert asyncio.run(scenario()) == [False, True]


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
def test_a_connection_that_has_ended_is_held_by_nothing(error: Exception | None) -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    async def scenario() -> tuple[bytes, weakref.ref[Connection]]:
        connection, transport = connect(answer, idle_seconds=1000.0)
        connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.gather(*connection.tasks)
        connection.connection_lost(error)
        reference = weakref.ref(connection)
        del connection
        await asyncio.sleep(0)
        gc.collect()
        return transport.written, reference

    async def run() -> None:
        written, reference = await scenario()
        assert written.startswith(b"HTTP/1.1 200 OK")
        assert reference() is None

    asyncio.run(run())


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Header: value\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"x" * 70_000,
    ],
)
def test_a_huge_head_is_a_431(head: bytes, server: Server) -> None:
    status, body = exchange(server, head)

    assert status == b"HTTP/1.1 431 Request Header Fields Too Large"
    assert body == {"error": "the request line and headers are over 65536 bytes; send fewer or shorter ones"}


def test_a_large_body_is_no_head(server: Server) -> None:
    body = json.dumps({"features": [1, 2], "padding": "x" * 200_000})

    assert httpx.post(f"{server.url}/predict", content=body).status_code == 200


def test_every_answer_has_an_id(server: Server) -> None:
    with httpx.Client() as client:
        own = [client.get(f"{server.url}{path}").headers["x-request-id"] for path in ("/health", "/models", "/none")]
        taken = client.post(f"{server.url}/predict", json={"features": [1, 2]}, headers={"x-request-id": "abc-1"})
        odd = client.get(f"{server.url}/health", headers={"x-request-id": "two words"})

    assert len(set(own)) == 3
    assert taken.headers["x-request-id"] == "abc-1"
    assert odd.headers["x-request-id"].startswith(own[0].partition("-")[0])


def test_traceparent_is_passed_on_where_it_is_one(server: Server) -> None:
    answers = [
        httpx.get(f"{server.url}/health", headers={"traceparent": value}).headers.get("traceparent")
        for value in (TRACE, "00-zz-00-01")
    ]

    assert answers == [TRACE, None]


def test_an_old_connection_is_closed_with_an_answer(tmp_path: Path) -> None:
    with start_server(tmp_path, SUM, MODELYARD_MAX_CONNECTION_AGE="0.05") as server, httpx.Client() as client:
        server.wait_for("/health/ready", 200)
        while True:  # the test's own timeout bounds it
            response = client.post(f"{server.url}/predict", json={"features": [1, 2]})
            assert response.status_code == 200
            if response.headers.get("connection") == "close":
                break


def test_a_client_says_how_long_it_waits(server: Server) -> None:
    ask = {"url": f"{server.url}/predict", "json": {"features": [1, 2]}}
    names = ("x-request-timeout-ms", "x-envoy-expected-rq-timeout-ms")

    fine = [httpx.post(**ask, headers={name: "5000"}).status_code for name in names]  # type: ignore[arg-type]
    wrong = [
        httpx.post(**ask, headers={names[0]: value})  # type: ignore[arg-type]
        for value in ("soon", "0", "-5", "1.5", "9" * 50)
    ]

    assert fine == [200, 200]
    assert [response.status_code for response in wrong] == [400] * 5
    assert "needs to be whole milliseconds above 0" in wrong[0].json()["error"]


def test_a_body_that_is_slower_than_its_client_says_is_a_408(server: Server) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\nX-Request-Timeout-Ms: 50\r\n\r\n"

    status, body = exchange(server, head + b'{"feat')

    assert status == b"HTTP/1.1 408 Request Timeout"
    assert "within 0.05 s" in body["error"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/health"), ("GET", "/metrics"), ("GET", "/openapi.json")])
def test_answers_are_whole(method: str, path: str, server: Server) -> None:
    with httpx.Client() as client:
        answers = [client.request(method, f"{server.url}{path}") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert all(len(answer.content) == int(answer.headers["content-length"]) for answer in answers)


def test_a_client_that_asks_for_it_is_told_that_the_connection_closes(server: Server) -> None:
    body = b'{"features": [1, 2]}'
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)

    status, answer = exchange(server, head + body)

    assert status == b"HTTP/1.1 200 OK"
    assert answer["prediction"] == 3.0


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    bodies = [json.dumps({"features": [1, value]}).encode() for value in range(5)]
    requests = b"".join(
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(b), b) for b in bodies
    )

    with socket.create_connection((server.host, server.port), timeout=30) as connection:
        connection.sendall(requests + b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answers = b"".join(iter(lambda: connection.recv(65536), b""))

    predictions = [json.loads(part.partition(b"}")[0] + b"}")["prediction"] for part in answers.split(b"\r\n\r\n")[1:6]]
    assert predictions == [1.0, 2.0, 3.0, 4.0, 5.0]
