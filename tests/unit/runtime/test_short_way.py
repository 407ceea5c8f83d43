"""The short way of predictions: whole requests answered where they are read, and everything else left to uvicorn."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
import uvicorn
from modelyard_runtime.dataplane.call import Client
from modelyard_runtime.http.response import Header, Response
from modelyard_runtime.transport.connection import Connection
from modelyard_runtime.transport.limits import ConnectionLimits
from unit.runtime.support import SUM, FakeTransport, Server, start_server
from uvicorn.server import ServerState

POST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


class Route:
    """Answers with the body; first waits for `gate`, where there is one."""

    def __init__(self, gate: asyncio.Event | None = None) -> None:
        self.gate = gate
        self.seen: list[bytes] = []

    def begin(self, headers: list[Header], body: bytes, client: Client) -> Coroutine[Any, Any, Response]:
        self.seen.append(body)
        return self._answer(body)

    async def _answer(self, body: bytes) -> Response:
        if self.gate is not None and body.startswith(b"slow"):
            await self.gate.wait()
        return Response(200, (), body)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The application: says that it was asked, and for what."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    answer = b"app:" + body
    head = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]}
    await send(head)
    await send({"type": "http.response.body", "body": answer})


def connect(route: Route) -> tuple[Connection, FakeTransport]:
    config = uvicorn.Config(app, interface="asgi3", ws="none", lifespan="off", log_config=None)
    connection = Connection(
        config=config,
        server_state=ServerState(),
        app_state={},
        limits=ConnectionLimits(),
        inference_route=lambda path: route if path == "/predict" else None,
    )
    transport = FakeTransport()
    connection.connection_made(transport)
    return connection, transport


async def settle(transport: FakeTransport, answers: int) -> None:
    while len(transport.bodies) < answers or b"" in transport.bodies:  # noqa: ASYNC110 -- the test's timeout bounds it
        await asyncio.sleep(0)


def request(body: bytes) -> bytes:
    return POST % len(body) + body


def test_a_whole_request_is_answered_before_the_read_returns() -> None:
    async def scenario() -> list[bytes]:
        connection, transport = connect(Route())
        connection.data_received(request(b"one"))
        return transport.bodies

    assert asyncio.run(scenario()) == [b"one"]


def test_a_body_in_parts_is_put_together() -> None:
    async def scenario() -> tuple[list[bytes], list[bytes]]:
        route = Route()
        connection, transport = connect(route)
        data = request(b"first second third")
        for start in range(0, len(data), 7):
            connection.data_received(data[start : start + 7])
        return transport.bodies, route.seen

    assert asyncio.run(scenario()) == ([b"first second third"], [b"first second third"])


def test_a_body_that_takes_its_time_is_the_applications() -> None:
    async def scenario() -> tuple[list[bytes], list[bytes]]:
        route = Route()
        connection, transport = connect(route)
        data = request(b"first second")
        connection.data_received(data[:-6])
        await asyncio.sleep(0.2)
        connection.data_received(data[-6:])
        await settle(transport, 1)
        return transport.bodies, route.seen

    assert asyncio.run(scenario()) == ([b"app:first second"], [])


@pytest.mark.parametrize("order", ["slow one", "one slow", "slow slow one", "slow GET one"])
def test_pipelined_requests_are_answered_in_order(order: str) -> None:
    async def scenario() -> list[bytes]:
        gate = asyncio.Event()
        connection, transport = connect(Route(gate))
        names = [f"{name}{index}".encode() for index, name in enumerate(order.split())]
        get = b"GET /else HTTP/1.1\r\nHost: x\r\n\r\n"
        connection.data_received(b"".join(get if name.startswith(b"GET") else request(name) for name in names))
        await asyncio.sleep(0.01)
        gate.set()
        await settle(transport, len(names))
        return [body.removeprefix(b"app:") for body in transport.bodies]

    wanted = [f"{name}{index}".encode() for index, name in enumerate(order.split())]
    try:
        got = asyncio.run(scenario())
    except TimeoutError:
        got = []
    assert got == [b"" if name.startswith(b"GET") else name for name in wanted]


def test_what_waits_is_finished_before_a_shutdown_closes() -> None:
    async def scenario() -> tuple[bool, list[bytes], bool]:
        gate = asyncio.Event()
        connection, transport = connect(Route(gate))
        connection.data_received(request(b"slow"))
        connection.shutdown()
        before = transport.closed
        gate.set()
        await settle(transport, 1)
        return before, transport.bodies, transport.closed

    assert asyncio.run(scenario()) == (False, [b"slow"], True)


def test_a_body_that_is_under_way_is_finished_before_a_shutdown_closes() -> None:
    async def scenario() -> tuple[bool, list[bytes], bool]:
        connection, transport = connect(Route())
        data = request(b"body")
        connection.data_received(data[:-2])
        connection.shutdown()
        before = transport.closed
        connection.data_received(data[-2:])
        await settle(transport, 1)
        return before, transport.bodies, transport.closed

    assert asyncio.run(scenario()) == (False, [b"app:body"], True)


@pytest.mark.parametrize("sent", [20, -2, -1])
def test_a_client_that_goes_leaves_nothing_behind(sent: int) -> None:
    async def scenario() -> tuple[set[Any], set[Any], bytes]:
        gate = asyncio.Event()
        connection, transport = connect(Route(gate))
        connection.data_received(request(b"slow")[:sent])
        connection.connection_lost(None)
        gate.set()
        await asyncio.sleep(0.1)
        return connection.connections, connection.tasks, transport.written

    assert asyncio.run(scenario()) == (set(), set(), b"")


def test_the_same_head_again_is_the_same_request_with_another_body() -> None:
    async def scenario() -> tuple[list[bytes], list[bytes]]:
        route = Route()
        connection, transport = connect(route)
        for body in (b"one", b"two", b"other", b"six"):
            connection.data_received(request(body))
        return transport.bodies, route.seen

    assert asyncio.run(scenario()) == ([b"one", b"two", b"other", b"six"],) * 2


def test_each_request_has_its_own_id_and_the_clients_where_it_gives_one() -> None:
    async def scenario() -> list[bytes]:
        connection, transport = connect(Route())
        own = b"POST /predict HTTP/1.1\r\nX-Request-Id: mine\r\nContent-Length: 3\r\n\r\none"
        for data in (request(b"one"), request(b"one"), own, own, request(b"one")):
            connection.data_received(data)
        return [line[14:] for line in transport.written.split(b"\r\n") if line.startswith(b"x-request-id: ")]

    first, second, *mine, last = asyncio.run(scenario())

    assert mine == [b"mine", b"mine"]
    assert len({first, second, last, b"mine"}) == 4


def test_idle_connections_are_closed_after_a_direct_answer_too() -> None:
    async def scenario() -> list[bool]:
        connection, transport = connect(Route())
        connection.data_received(request(b"one"))
        now = connection.loop.time()
        states = []
        for later in (70.0, 80.0):
            connection.check(now + later)
            states.append(transport.closed)
        return states

    assert asyncio.run(scenario()) == [False, True]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_server(tmp_path_factory.mktemp("server"), SUM) as started:
        started.wait_for("/health/ready", 200)
        yield started


def talk(server: Server, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send parts one after the other, and return what comes until the server closes."""
    with socket.create_connection((server.host, server.port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        return b"".join(iter(lambda: connection.recv(65536), b""))


BODY = b'{"features": [1, 2]}'


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (b"POST /predict HTTP/1.0\r\nHost: x\r\nContent-Length: 20\r\n\r\n", True),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\nConnection: close\r\n\r\n", True),
        (b"POST /predict?a=b HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n", False),
        (b"POST /%70redict HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n", False),
        # What Java's client and `curl --http2` send.
        (
            b"POST /predict HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: 20\r\nHost: x\r\n"
            b"HTTP2-Settings: AAEAAEAAAAIAAAAB\r\nUpgrade: h2c\r\n\r\n",
            False,
        ),
    ],
)
def test_all_forms_of_a_request_are_answered(head: bytes, closes: bool, server: Server) -> None:
    last = b"" if closes else b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    answer = talk(server, head + BODY + last)

    first, _, rest = answer.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert json.loads(rest[: rest.index(b"}") + 1])["prediction"] == 3.0
    assert (b"connection: close" in first) is closes


def test_a_chunked_body_is_taken(server: Server) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"

    answer = talk(server, head, b"a\r\n" + BODY[:10] + b"\r\n", b"a\r\n" + BODY[10:] + b"\r\n0\r\n\r\n")

    assert b'"prediction":3.0' in answer


def test_a_client_that_asks_whether_to_send_is_told(server: Server) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\nExpect: 100-continue\r\n"

    answer = talk(server, head + b"Connection: close\r\n\r\n", BODY, pause=0.1)

    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert b'"prediction":3.0' in answer


def test_answers_have_a_date(server: Server) -> None:
    answer = talk(
        server, b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 20\r\n\r\n" + BODY
    )

    assert b"\r\ndate: " in answer.partition(b"\r\n\r\n")[0]


def test_a_tunnel_is_refused(server: Server) -> None:
    answer = talk(server, b"CONNECT other:80 HTTP/1.1\r\nHost: other:80\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"this is none" in answer
